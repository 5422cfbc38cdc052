import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { access } from 'node:fs/promises'
import { homedir } from 'node:os'
import { join } from 'node:path'

/** A server that is not ours, on loopback. It ends with this process, whatever ends that. */
export interface ForeignServer {
  /** `http://127.0.0.1:<port>` */
  readonly endpoint: string
  stop(): Promise<void>
}

/** What a suite needs to know of a server which this machine may not have. */
export interface ForeignKind {
  readonly name: string
  /** In the cache; there when it was fetched whole. */
  readonly marker: string
  /** Names a server that runs already, in place of one that is started. */
  readonly urlVariable: string
  start(): Promise<ForeignServer>
}

/** A second or two; on a machine that is busy with other suites far more. */
const START_TIMEOUT_MS = 110_000

/** Where fetched servers are: `TEST_SERVERS_DIR`, else a folder among this user's caches. */
export function cacheDir(): string {
  const caches = process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache')
  return process.env.TEST_SERVERS_DIR ?? join(caches, 'glyphpress', 'test-servers')
}

/** Starts a command and waits for the line that says where it listens. @throws with its last words */
export async function startForeign(input: {
  command: string
  args: string[]
  /** Its first group is the port. */
  listening: RegExp
}): Promise<ForeignServer> {
  const leash = join(import.meta.dirname, 'leash-cli.ts')
  const flags = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']
  const child = spawn(process.execPath, [...flags, leash, input.command, ...input.args], {
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const ended = once(child, 'close')
  const port = await new Promise<string>((resolve, reject) => {
    let text = ''
    const give = (why: string) =>
      reject(new Error(`${input.command} ${why}:\n${text.slice(-2000)}`))
    const timer = setTimeout(() => {
      child.stdin.end()
      give(`said nothing of listening in ${START_TIMEOUT_MS} ms`)
    }, START_TIMEOUT_MS)
    const look = (chunk: string) => {
      text += chunk
      const found = input.listening.exec(text)?.[1]
      if (found === undefined) return
      clearTimeout(timer)
      // What it says from now on is read, so that it never waits for a reader, and forgotten.
      for (const stream of [child.stdout, child.stderr]) stream.off('data', look).resume()
      resolve(found)
    }
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', look)
    void ended.then(() => {
      clearTimeout(timer)
      give('ended')
    })
  })
  return {
    endpoint: `http://127.0.0.1:${port}`,
    async stop() {
      child.stdin.end()
      await ended
    },
  }
}

/** The server at the address that the environment gives, else one of this machine's own; null when there is neither. */
export async function openForeign(kind: ForeignKind): Promise<ForeignServer | null> {
  const endpoint = process.env[kind.urlVariable]
  if (endpoint) return { endpoint, stop: () => Promise.resolve() }
  return (await isFetched(kind)) ? kind.start() : null
}

/** Whether suites can run against this kind of server here. Says aloud when they cannot, and what to do. */
export async function isAtHand(kind: ForeignKind, suite: string): Promise<boolean> {
  if (process.env[kind.urlVariable] || (await isFetched(kind))) return true
  process.stderr.write(
    `SKIPPED: ${suite} against ${kind.name}, which is not here; \`npm run servers:fetch\` gets it\n`,
  )
  return false
}

export async function isFetched({ marker }: ForeignKind): Promise<boolean> {
  try {
    await access(marker)
    return true
  } catch {
    return false
  }
}
