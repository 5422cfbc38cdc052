import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { encodeImage } from '../../gpu-worker/pipeline/encode.ts'

export interface ImageServer {
  readonly url: string
  /** Bodies of the pictures that were asked for. */
  readonly asked: Record<string, unknown>[]
  /** Authorization headers, of all calls. */
  readonly keys: Set<string | undefined>
  /** How many callers hung up before their answer. */
  hungUp: number
  /** Answers of a path in place of the usual ones. */
  readonly instead: Map<string, (response: ServerResponse, request: IncomingMessage) => void>
  close(): Promise<void>
}

/** A server of OpenAI's images protocol as vLLM-Omni speaks it; each picture is one colour that follows its seed. */
export async function startImageServer(
  options: { model?: string; port?: number } = {},
): Promise<ImageServer> {
  const { model = 'zai-org/GLM-Image' } = options
  const http = createServer((request, response) => {
    server.keys.add(request.headers.authorization)
    response.once('close', () => {
      if (!response.writableFinished) server.hungUp += 1
    })
    const instead = server.instead.get(request.url ?? '')
    if (instead) instead(response, request)
    else
      void answer(request, response).catch((error: unknown) => sendJson(response, 500, { error }))
  })
  const server: ImageServer & { url: string } = {
    url: '',
    asked: [],
    keys: new Set(),
    hungUp: 0,
    instead: new Map(),
    async close() {
      http.closeAllConnections()
      await new Promise((resolve) => http.close(resolve))
    },
  }
  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    switch (`${request.method} ${request.url}`) {
      case 'GET /health':
        return sendJson(response, 200, {})
      case 'GET /v1/models':
        return sendJson(response, 200, { object: 'list', data: [{ id: model, object: 'model' }] })
      case 'POST /v1/images/generations': {
        const body = JSON.parse(await text(request)) as Record<string, unknown>
        server.asked.push(body)
        const [width = 0, height = 0] = String(body['size']).split('x').map(Number)
        return sendJson(response, 200, {
          created: 1,
          data: [{ b64_json: await drawBase64(width, height, Number(body['seed'])), url: null }],
        })
      }
      default:
        return sendJson(response, 404, { detail: 'Not Found' })
    }
  }
  await new Promise<void>((resolve) => http.listen(options.port ?? 0, '127.0.0.1', resolve))
  server.url = `http://127.0.0.1:${(http.address() as AddressInfo).port}`
  return server
}

export async function drawBase64(width: number, height: number, seed: number): Promise<string> {
  const pixels = new Uint8Array(width * height * 3).fill(seed % 256)
  const { bytes } = await encodeImage(pixels, { width, height }, 'png')
  return Buffer.from(bytes).toString('base64')
}

export function sendJson(response: ServerResponse, status: number, body: unknown): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
}
