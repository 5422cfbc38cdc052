import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Registry } from 'prom-client'

export interface MetricsServer {
  /** Where the figures are, such as `http://127.0.0.1:9464/metrics`. */
  readonly url: string
  close(): void
}

/**
 * Serves a registry as `/metrics` on a port of its own, apart from what customers reach.
 *
 * @throws when the port cannot be had
 */
export async function serveMetrics(
  registry: Registry,
  { host, port }: { host: string; port: number },
): Promise<MetricsServer> {
  const server = createServer((request, response) => {
    if (request.url !== '/metrics') {
      response.writeHead(404).end()
      return
    }
    registry.metrics().then(
      (text) => response.writeHead(200, { 'content-type': registry.contentType }).end(text),
      () => response.writeHead(500).end(),
    )
  })
  server.listen(port, host)
  await once(server, 'listening')
  // Nobody waits for figures of a process that ends.
  server.unref()
  const { port: own } = server.address() as AddressInfo
  return {
    url: `http://${host}:${own}/metrics`,
    close() {
      server.close()
      server.closeAllConnections()
    },
  }
}
