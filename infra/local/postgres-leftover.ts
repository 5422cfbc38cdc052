import { execFile } from 'node:child_process'
import { readFile, realpath, writeFile } from 'node:fs/promises'
import { isAbsolute, join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { promisify } from 'node:util'

const run = promisify(execFile)
const POLL_MS = 100

/**
 * Makes room for a server on a cluster whose last one may not have been stopped. Only a server that runs on this
 * folder is shut down; the process id that the last one left behind may by now be anybody's.
 *
 * @param dataDir with all links resolved
 */
export async function endLeftover(dataDir: string, timeoutMs: number): Promise<void> {
  const file = join(dataDir, 'postmaster.pid')
  const text = await readFile(file, 'utf8').catch(() => '')
  const [first = '', ...rest] = text.split('\n')
  const pid = Number.parseInt(first, 10)
  if (!Number.isInteger(pid)) return
  const whose = await whoseIs(pid, dataDir)
  if (whose === 'ours') {
    process.kill(pid, 'SIGINT')
    const endMs = performance.now() + timeoutMs
    while ((await whoseIs(pid, dataDir)) === 'ours' && performance.now() < endMs)
      await wait(POLL_MS)
  }
  // The server takes any process of its user for the one before it, and refuses to start. Its parent it does not;
  // the rest of the file still shows it processes of the last server that use the folder.
  if (whose === 'stranger') await writeFile(file, [process.pid, ...rest].join('\n'))
}

/**
 * Whose process that is: of a server on this folder, of somebody else, or not to be told, which is left to the
 * server's own judgement.
 */
async function whoseIs(pid: number, dataDir: string): Promise<'ours' | 'stranger' | 'unknown'> {
  const { stdout } = await run('ps', ['-ww', '-o', 'args=', '-p', String(pid)]).catch(() => ({
    stdout: '',
  }))
  if (stdout === '') return 'unknown'
  // A server that was killed and whose end nobody has taken note of yet still has its id, and does nothing with it.
  if (stdout.includes('<defunct>')) return 'stranger'
  // Beside the first process of a server, which has the folder among its arguments, there are its children.
  if (!stdout.includes('postgres') || stdout.startsWith('postgres: ')) return 'stranger'
  const folder = / -D (.+?)(?: -[a-zA-Z]|\n|$)/.exec(stdout)?.[1]
  if (folder === undefined || !isAbsolute(folder)) return 'unknown'
  const resolved = await realpath(folder).catch(() => folder)
  return resolved === dataDir ? 'ours' : 'stranger'
}
