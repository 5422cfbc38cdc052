import { Agent, request } from 'undici'
import type { Dispatcher } from 'undici'
import { z } from 'zod'
import { HubError } from './hub-error.ts'

/** One file of a repository, as the hub's metadata names it. */
export interface HubFile {
  path: string
  sizeBytes: number
  /** sha256 of the bytes for a large file, else the sha1 that git gives them. */
  digest: { kind: 'sha256' | 'git-sha1'; hex: string }
}

export interface HubRepository {
  /** The commit that all files are of, whatever the branch does meanwhile. */
  commit: string
  files: readonly HubFile[]
}

export interface HubClient {
  /** @throws HubError */
  list(): Promise<HubRepository>
  /**
   * The bytes of a file from `start` on.
   *
   * @returns `start`, where they really begin: 0 from a server that knows no ranges
   * @throws HubError
   */
  read(
    file: HubFile,
    commit: string,
    start: number,
    signal: AbortSignal,
  ): Promise<{ start: number; body: AsyncIterable<Uint8Array> }>
  close(): Promise<void>
}

export interface HubPlace {
  endpoint: string
  /** `owner/name`. */
  repository: string
  revision: string
  token?: string
}

/** Without a word for so long a connection counts as dead. */
const SILENCE_MS = 60_000
const MAX_REDIRECTS = 5
/** The list of files of a model is some ten kilobytes. */
const MAX_LIST_BYTES = 8 * 2 ** 20

const revisionSchema = z.object({ sha: z.string().regex(/^[0-9a-f]{40}$/) })
const treeSchema = z.array(
  z.discriminatedUnion('type', [
    z.object({ type: z.literal('directory') }),
    z.object({
      type: z.literal('file'),
      path: z.string().min(1),
      size: z.int().nonnegative(),
      oid: z.string().regex(/^[0-9a-f]{40}$/),
      lfs: z
        .object({ oid: z.string().regex(/^[0-9a-f]{64}$/), size: z.int().nonnegative() })
        .optional(),
    }),
  ]),
)

/** Speaks the protocol of a model hub. The token goes to the hub itself and to nobody it sends us to. */
export function openHub(place: HubPlace, silenceMs = SILENCE_MS): HubClient {
  const agent = new Agent({
    connectTimeout: silenceMs,
    headersTimeout: silenceMs,
    bodyTimeout: silenceMs,
  })
  const get = createGet(place, agent)
  const json = async (address: string) => {
    const answer = await get(address, {})
    if (answer.statusCode !== 200) throw await toRefusal(place, address, answer)
    return { text: await readText(answer.body, address), link: answer.headers['link'] }
  }
  const api = `${place.endpoint}/api/models/${place.repository}`
  return {
    async list() {
      const address = `${api}/revision/${encodeURIComponent(place.revision)}`
      const { sha: commit } = parse(revisionSchema, (await json(address)).text, address)
      const files: HubFile[] = []
      let page: string | null = `${api}/tree/${commit}?recursive=true`
      while (page !== null) {
        const { text, link }: Awaited<ReturnType<typeof json>> = await json(page)
        for (const entry of parse(treeSchema, text, page)) {
          if (entry.type === 'file') files.push(toFile(entry))
        }
        page = nextPage(link, page)
      }
      return { commit, files }
    },
    async read(file, commit, start, signal) {
      const path = file.path.split('/').map(encodeURIComponent).join('/')
      const address = `${place.endpoint}/${place.repository}/resolve/${commit}/${path}`
      const answer = await get(address, start > 0 ? { range: `bytes=${start}-` } : {}, signal)
      if (answer.statusCode === 200) return { start: 0, body: answer.body }
      if (answer.statusCode !== 206) throw await toRefusal(place, address, answer)
      const range = /^bytes (\d+)-/.exec(String(answer.headers['content-range']))
      if (Number(range?.[1]) === start) return { start, body: answer.body }
      await answer.body.dump()
      throw new HubError('hub_invalid', `${address}: answers another range than was asked for`)
    },
    close: () => agent.destroy(),
  }
}

/** Asks, following redirects. */
function createGet(place: HubPlace, agent: Agent) {
  const origin = new URL(place.endpoint).origin
  return async (address: string, headers: Record<string, string>, signal?: AbortSignal) => {
    let url = new URL(address)
    for (let hop = 0; hop <= MAX_REDIRECTS; hop += 1) {
      const own: Record<string, string> = { ...headers, 'accept-encoding': 'identity' }
      if (place.token !== undefined && url.origin === origin) {
        own['authorization'] = `Bearer ${place.token}`
      }
      const answer = await request(url, {
        dispatcher: agent,
        headers: own,
        ...(signal && { signal }),
      })
      const next = answer.headers['location']
      if (answer.statusCode < 300 || answer.statusCode >= 400 || typeof next !== 'string') {
        return answer
      }
      await answer.body.dump()
      url = toNext(next, url)
    }
    throw new HubError('hub_invalid', `${address}: more than ${MAX_REDIRECTS} redirects`)
  }
}

/** @throws HubError when it leads to an address without encryption from one with */
function toNext(location: string, from: URL): URL {
  const next = new URL(location, from)
  const isSafe = next.protocol === 'https:' || next.protocol === from.protocol
  if (isSafe && /^https?:$/.test(next.protocol)) return next
  throw new HubError('hub_invalid', `${from.origin} redirects to ${next.protocol}//${next.host}`)
}

type FileEntry = Extract<z.output<typeof treeSchema>[number], { type: 'file' }>

function toFile({ path, size, oid, lfs }: FileEntry): HubFile {
  // A name that leaves the folder would overwrite what is not the model's.
  const isInside = path.split('/').every((part) => part !== '' && part !== '.' && part !== '..')
  if (!isInside || /[\\\0]/.test(path)) {
    throw new HubError('hub_invalid', `the repository has a file named ${JSON.stringify(path)}`)
  }
  return lfs
    ? { path, sizeBytes: lfs.size, digest: { kind: 'sha256', hex: lfs.oid } }
    : { path, sizeBytes: size, digest: { kind: 'git-sha1', hex: oid } }
}

function nextPage(link: string | string[] | undefined, from: string): string | null {
  const next = /<([^>]+)>;\s*rel="next"/.exec(String(link ?? ''))?.[1]
  if (next === undefined) return null
  const url = new URL(next, from)
  if (url.origin === new URL(from).origin) return url.href
  throw new HubError('hub_invalid', `the next page of ${from} is at ${url.origin}`)
}

async function toRefusal(
  { repository, token }: HubPlace,
  address: string,
  { statusCode, body }: Dispatcher.ResponseData,
): Promise<HubError> {
  await body.dump()
  const said = `${address} answers ${statusCode}`
  if (statusCode === 401 || statusCode === 403) {
    const cure =
      token === undefined
        ? 'set HF_TOKEN to a token of an account that may read it'
        : 'the token of HF_TOKEN may not read it: accept its terms on its page, or use another'
    return new HubError('not_allowed', `${repository} is not open to everybody: ${cure} (${said})`)
  }
  if (statusCode === 404) return new HubError('not_found', `there is no ${repository}: ${said}`)
  return new HubError('unreachable', said)
}

async function readText(body: AsyncIterable<Uint8Array>, address: string): Promise<string> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of body) {
    size += chunk.length
    if (size > MAX_LIST_BYTES)
      throw new HubError('hub_invalid', `${address}: the answer is too long`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function parse<Schema extends z.ZodType>(
  schema: Schema,
  text: string,
  address: string,
): z.output<Schema> {
  try {
    return schema.parse(JSON.parse(text))
  } catch (cause) {
    throw new HubError('hub_invalid', `${address}: the answer is not that of a hub`, { cause })
  }
}
