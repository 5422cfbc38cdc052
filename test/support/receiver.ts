import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface ReceivedWebhook {
  method: string
  path: string
  headers: Record<string, string>
  body: string
}

export interface WebhookReceiver {
  url: string
  port: number
  received: ReceivedWebhook[]
  /** What to answer from now on; 200 at first. */
  answer: (request: IncomingMessage, response: ServerResponse) => void
  /** Resolves when that many requests have come in all. */
  waitFor(count: number): Promise<void>
  close(): Promise<void>
}

/** A real HTTP server on loopback that keeps what it is sent. */
export async function startReceiver(): Promise<WebhookReceiver> {
  let wake: (() => void)[] = []
  const receiver: WebhookReceiver = {
    url: '',
    port: 0,
    received: [],
    answer: (_, response) => response.writeHead(200).end('ok'),
    async waitFor(count) {
      while (receiver.received.length < count)
        await new Promise<void>((resolve) => wake.push(resolve))
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      receiver.received.push({
        method: request.method ?? '',
        path: request.url ?? '',
        headers: Object.fromEntries(
          Object.entries(request.headers).map(([name, value]) => [name, String(value)]),
        ),
        body: Buffer.concat(chunks).toString(),
      })
      receiver.answer(request, response)
      const waiting = wake
      wake = []
      for (const resolve of waiting) resolve()
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  receiver.port = (server.address() as AddressInfo).port
  receiver.url = `http://127.0.0.1:${receiver.port}/hook`
  return receiver
}
