import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'

export const COMMIT = 'a'.repeat(40)

export interface HubRequest {
  host: 'hub' | 'store'
  path: string
  range: string | undefined
  authorization: string | undefined
}

/** What becomes of one download: after so many bytes of it. */
export type Fault =
  | { kind: 'cut'; after: number }
  | { kind: 'silence'; after: number }
  | { kind: 'status'; status: number }
  | { kind: 'other bytes' }
  | { kind: 'no ranges' }
  | { kind: 'wrong range' }
  | { kind: 'too many bytes' }

export interface HubServer {
  endpoint: string
  /** The address of the second server, to which large files are redirected. */
  storeOrigin: string
  requests: HubRequest[]
  /** The faults of the next downloads of a file, one each. */
  break(path: string, ...faults: Fault[]): void
  close(): Promise<void>
}

/**
 * A model hub: a commit, pages of its tree, files of which the large ones are redirected to a store on another origin.
 *
 * @param options.token without it every call is refused
 * @param options.names how the tree spells a path, where it should lie
 */
export async function startHub(
  files: Record<string, { bytes: Buffer; isLarge: boolean }>,
  options: { token?: string; names?: Record<string, string>; loop?: boolean } = {},
): Promise<HubServer> {
  const requests: HubRequest[] = []
  const faults = new Map<string, Fault[]>()
  const store = createServer((request, response) => {
    note('store', request)
    send(decodeURIComponent(request.url?.slice(1) ?? ''), request, response)
  })
  store.listen(0, '127.0.0.1')
  await once(store, 'listening')
  const storeOrigin = `http://127.0.0.1:${(store.address() as AddressInfo).port}`
  const note = (host: HubRequest['host'], { url = '', headers }: IncomingMessage) =>
    void requests.push({
      host,
      path: url,
      range: headers.range,
      authorization: headers.authorization,
    })
  const send = (path: string, request: IncomingMessage, response: ServerResponse) => {
    const file = files[path]
    if (!file) return void response.writeHead(404).end()
    const fault = faults.get(path)?.shift()
    if (fault?.kind === 'status') return void response.writeHead(fault.status).end('no')
    const asked = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0)
    const start = fault?.kind === 'no ranges' ? 0 : asked
    const named = fault?.kind === 'wrong range' ? start + 1 : start
    const own = fault?.kind === 'other bytes' ? Buffer.alloc(file.bytes.length, 7) : file.bytes
    const rest = own.subarray(start)
    const body = fault?.kind === 'too many bytes' ? Buffer.concat([rest, rest]) : rest
    const range = `bytes ${named}-${file.bytes.length - 1}/${file.bytes.length}`
    response.writeHead(start > 0 ? 206 : 200, {
      'content-length': body.length,
      ...(start > 0 && { 'content-range': range }),
    })
    if (fault?.kind === 'cut' || fault?.kind === 'silence') {
      response.write(body.subarray(0, fault.after), () => {
        // What lies in the reader's buffers when a connection breaks is lost to it.
        if (fault.kind === 'cut') setTimeout(() => response.destroy(), 100)
      })
    } else response.end(body)
  }
  const answer = (response: ServerResponse, value: unknown, headers: Record<string, string> = {}) =>
    void response.writeHead(200, headers).end(JSON.stringify(value))
  const entries = Object.entries(files).map(([path, { bytes, isLarge }]) => ({
    type: 'file',
    path: options.names?.[path] ?? path,
    size: bytes.length,
    oid: createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex'),
    ...(isLarge && {
      lfs: { oid: createHash('sha256').update(bytes).digest('hex'), size: bytes.length },
    }),
  }))
  const hub = createServer((request, response) => {
    note('hub', request)
    const { pathname, searchParams } = new URL(request.url ?? '', endpoint)
    if (options.token && request.headers.authorization !== `Bearer ${options.token}`) {
      return void response.writeHead(request.headers.authorization ? 403 : 401).end('gated')
    }
    if (pathname === '/api/models/acme/model/revision/main')
      return answer(response, { sha: COMMIT })
    if (pathname === `/api/models/acme/model/tree/${COMMIT}`) {
      // Two entries per page.
      const from = Number(searchParams.get('cursor') ?? 0)
      const next = `<${endpoint}${pathname}?recursive=true&cursor=${from + 2}>; rel="next"`
      const page = [{ type: 'directory', path: 'vae' }, ...entries.slice(from, from + 2)]
      return answer(response, page, from + 2 < entries.length ? { link: next } : {})
    }
    const path = decodeURIComponent(pathname.replace(`/acme/model/resolve/${COMMIT}/`, ''))
    if (!files[path]) return void response.writeHead(404).end()
    if (options.loop) return void response.writeHead(302, { location: request.url ?? '' }).end()
    if (!files[path].isLarge) return send(path, request, response)
    response.writeHead(302, { location: `${storeOrigin}/${encodeURIComponent(path)}` }).end()
  })
  hub.listen(0, '127.0.0.1')
  await once(hub, 'listening')
  const endpoint = `http://127.0.0.1:${(hub.address() as AddressInfo).port}`
  return {
    endpoint,
    storeOrigin,
    requests,
    break: (path, ...own) => void faults.set(path, own),
    async close() {
      for (const server of [hub, store]) {
        server.closeAllConnections()
        server.close()
        await once(server, 'close')
      }
    },
  }
}
