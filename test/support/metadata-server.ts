import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

/** What an EC2 instance hears of itself, by version 2 of the protocol: nothing without a token that was put first. */
export async function startMetadataServer(): Promise<{
  url: string
  set(path: string, text: string): void
  remove(path: string): void
  /** All tokens that were given out are no good any more. */
  forgetTokens(): void
  /** Calls without a good token. */
  readonly refused: () => number
  close(): Promise<void>
}> {
  const texts = new Map<string, string>()
  const tokens = new Set<string>()
  let refused = 0
  const server = createServer((request, response) => {
    if (request.method === 'PUT' && request.url === '/latest/api/token') {
      const token = `token-${tokens.size}-${Math.random()}`
      tokens.add(token)
      response.end(token)
      return
    }
    if (!tokens.has(String(request.headers['x-aws-ec2-metadata-token']))) {
      refused += 1
      response.writeHead(401).end()
      return
    }
    const text = texts.get(String(request.url).replace('/latest/meta-data/', ''))
    if (text === undefined) response.writeHead(404).end()
    else response.end(text)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    set: (path, text) => void texts.set(path, text),
    remove: (path) => void texts.delete(path),
    forgetTokens: () => tokens.clear(),
    refused: () => refused,
    async close() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

export const SPOT_NOTICE = JSON.stringify({ action: 'terminate', time: '2026-11-25T12:02:00Z' })
export const REBALANCE_HINT = JSON.stringify({ noticeTime: '2026-11-25T12:00:00Z' })
