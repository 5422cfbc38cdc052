import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

/** A place that takes CloudWatch's calls, keeps their bytes and answers, or never does. */
export async function startMetricServer(): Promise<{
  url: string
  /** Bodies as they came; names of metrics stand in them as they are. */
  readonly bodies: string[]
  hang(isHanging: boolean): void
  close(): Promise<void>
}> {
  const bodies: string[] = []
  let isHanging = false
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      bodies.push(Buffer.concat(chunks).toString('latin1'))
      if (isHanging) return
      const type = request.headers['content-type'] ?? 'application/x-amz-json-1.0'
      // An empty answer is a good one, in JSON as in CBOR (an empty map).
      response.setHeader('content-type', type)
      if (request.headers['smithy-protocol'])
        response.setHeader('smithy-protocol', String(request.headers['smithy-protocol']))
      response.end(type.includes('cbor') ? Buffer.from([0xa0]) : '{}')
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    bodies,
    hang: (value) => (isHanging = value),
    async close() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}
