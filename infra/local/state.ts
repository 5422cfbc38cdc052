import { randomBytes } from 'node:crypto'
import { chmod, mkdir, open, readFile, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'

/** Secrets of one installation, made at its first start. */
export interface LocalSecrets {
  pepper: string
  databasePassword: string
}

export interface LocalState {
  readonly dir: string
  readonly databaseDir: string
  readonly objectDir: string
  readonly logDir: string
  readonly secrets: LocalSecrets
  /** Lets another start use the folder. Safe to repeat. */
  release(): Promise<void>
}

/**
 * Opens the state folder for this process alone and makes its secrets at the first start.
 *
 * @throws when another start uses the folder
 */
export async function openState(dir: string): Promise<LocalState> {
  const folder = resolve(dir)
  await mkdir(folder, { recursive: true })
  // The database server runs under a user of its own when we are root, and has to pass through.
  await chmod(folder, 0o711)
  await takeLock(join(folder, 'lock'))
  const state = {
    dir: folder,
    databaseDir: join(folder, 'postgres'),
    objectDir: join(folder, 'objects'),
    logDir: join(folder, 'logs'),
    secrets: await readSecrets(join(folder, 'secrets.json')),
    release: () => rm(join(folder, 'lock'), { force: true }),
  }
  await mkdir(state.objectDir, { recursive: true, mode: 0o700 })
  await mkdir(state.logDir, { recursive: true, mode: 0o700 })
  return state
}

async function readSecrets(path: string): Promise<LocalSecrets> {
  const text = await readFile(path, 'utf8').catch(() => null)
  if (text !== null) {
    const { pepper, databasePassword } = JSON.parse(text) as Partial<LocalSecrets>
    if (!pepper || !databasePassword)
      throw new Error(`${path} is damaged: restore it from a backup`)
    return { pepper, databasePassword }
  }
  const secret = () => randomBytes(32).toString('hex')
  const secrets = { pepper: secret(), databasePassword: secret() }
  await writeFile(path, JSON.stringify(secrets, null, 2), { mode: 0o600 })
  return secrets
}

/** The lock holds a process id; one whose process is gone is taken over. */
async function takeLock(path: string): Promise<void> {
  for (let attempt = 0; attempt < 2; attempt++) {
    try {
      const handle = await open(path, 'wx', 0o600)
      await handle.writeFile(String(process.pid))
      await handle.close()
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    const pid = Number(await readFile(path, 'utf8').catch(() => ''))
    if (pid > 0 && isAlive(pid)) {
      throw new Error(
        `${path} is held by process ${pid}: Glyphpress already runs on this folder. Stop it, or name another with --state-dir.`,
      )
    }
    await rm(path, { force: true })
  }
  throw new Error(`${path} cannot be taken`)
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}
