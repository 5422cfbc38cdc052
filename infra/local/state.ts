import { randomBytes } from 'node:crypto'
import { constants } from 'node:fs'
import { access, chmod, mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'

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
  /** Lets another start use the folder; so does the end of this process, whatever ends it. Safe to repeat. */
  release(): void
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
  const release = await takeLock(folder)
  const state = {
    dir: folder,
    databaseDir: databaseDirOf(folder),
    objectDir: join(folder, 'objects'),
    logDir: join(folder, 'logs'),
    secrets: await ensureSecrets(folder),
    release,
  }
  await mkdir(state.objectDir, { recursive: true, mode: 0o700 })
  await mkdir(state.logDir, { recursive: true, mode: 0o700 })
  return state
}

/** The folder of the cluster in a state folder. */
export function databaseDirOf(dir: string): string {
  return join(resolve(dir), 'postgres')
}

/**
 * The secrets of a state folder, whoever has it open; null before its first start.
 *
 * @throws when they cannot be read or are damaged
 */
export async function findSecrets(dir: string): Promise<LocalSecrets | null> {
  const path = secretsPathOf(dir)
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return null
    throw new Error(`${path} cannot be read (${error.code})`, { cause: error })
  })
  if (text === null) return null
  const { pepper, databasePassword } = JSON.parse(text) as Partial<LocalSecrets>
  if (!pepper || !databasePassword) throw new Error(`${path} is damaged: restore it from a backup`)
  return { pepper, databasePassword }
}

export function secretsPathOf(dir: string): string {
  return join(resolve(dir), 'secrets.json')
}

async function ensureSecrets(dir: string): Promise<LocalSecrets> {
  const known = await findSecrets(dir)
  if (known) return known
  const secret = () => randomBytes(32).toString('hex')
  const secrets = { pepper: secret(), databasePassword: secret() }
  const path = secretsPathOf(dir)
  // It is there whole or not at all: half of it could not be made anew.
  await writeFile(`${path}.part`, JSON.stringify(secrets, null, 2), { mode: 0o600 })
  await rename(`${path}.part`, path)
  return secrets
}

/** SQLite's answer when another holds the file. */
const BUSY = 5

/**
 * Takes the folder by a lock of the operating system on an empty file, which SQLite is the only way to in Node.
 * It ends with the process that holds it. A process id in a file would not do: after a kill the number may be
 * another process's, in a container that is started again even our own.
 */
async function takeLock(folder: string): Promise<() => void> {
  const path = join(folder, 'lock.sqlite')
  const holder = join(folder, 'pid')
  const lock = new DatabaseSync(path)
  try {
    // Nothing is ever written, so that a full disk does not bar the way.
    lock.exec('pragma journal_mode = memory; begin exclusive')
    // A file that we may only read is locked without a complaint, but not against others.
    await access(path, constants.W_OK)
    await writeFile(holder, String(process.pid), { mode: 0o644 })
  } catch (error) {
    lock.close()
    if ((error as { errcode?: number }).errcode !== BUSY) throw error
    const pid = await readFile(holder, 'utf8').catch(() => 'unknown')
    throw new Error(
      `Glyphpress already runs on ${folder}, as process ${pid}. Stop it, or name another folder with --state-dir.`,
      { cause: error },
    )
  }
  let isHeld = true
  return () => {
    if (isHeld) lock.close()
    isHeld = false
  }
}
