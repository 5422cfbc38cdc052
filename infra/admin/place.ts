import { join } from 'node:path'
import { UsageError } from '../../billing/command-line.ts'
import { MIN_PEPPER_CHARACTERS } from '../../edge/pepper.ts'
import { findServerPort, localDatabaseUrl } from '../local/database-url.ts'
import { databaseDirOf, findSecrets } from '../local/state.ts'

/** What the surroundings may name. */
export interface AdminEnv {
  readonly DATABASE_URL?: string | undefined
  readonly KEY_PEPPER?: string | undefined
}

/** Where commands work, and how that is called when it does not answer. */
export interface Place {
  readonly databaseUrl: string
  readonly name: string
}

/**
 * The database that the surroundings name, else the embedded one of `npm start` on this machine.
 *
 * @throws UsageError when there is neither
 */
export async function findPlace(env: AdminEnv, stateDir: string): Promise<Place> {
  if (env.DATABASE_URL) {
    if (!/^postgres(ql)?:\/\//.test(env.DATABASE_URL))
      throw new UsageError('DATABASE_URL must begin with postgres://')
    return { databaseUrl: env.DATABASE_URL, name: 'The database of DATABASE_URL' }
  }
  const secrets = await findSecrets(stateDir)
  const port = secrets ? await findServerPort(databaseDirOf(stateDir)) : null
  if (!secrets || port === null) {
    throw new UsageError(
      `There is no database: DATABASE_URL is not set, and npm start does not run on ${stateDir}.
Run npm start in another terminal (--state-dir names another folder), or set
DATABASE_URL=postgres://user:password@host:5432/database.`,
    )
  }
  const databaseUrl = localDatabaseUrl({ port, password: secrets.databasePassword })
  return { databaseUrl, name: `The database of npm start on ${stateDir}` }
}

/**
 * The pepper that the gateway has by the same rules: the named one, else that of the state folder.
 *
 * @throws UsageError when there is neither, or the named one is too short for a gateway
 */
export async function findPepper(
  env: AdminEnv,
  stateDir: string,
): Promise<{ pepper: string; source: string }> {
  if (env.KEY_PEPPER) {
    if (env.KEY_PEPPER.length < MIN_PEPPER_CHARACTERS)
      throw new UsageError(`KEY_PEPPER must have at least ${MIN_PEPPER_CHARACTERS} characters`)
    return { pepper: env.KEY_PEPPER, source: 'KEY_PEPPER' }
  }
  const secrets = await findSecrets(stateDir)
  if (secrets) {
    return { pepper: secrets.pepper, source: `the pepper of ${join(stateDir, 'secrets.json')}` }
  }
  throw new UsageError(
    `KEY_PEPPER is not set, and ${stateDir} has no secrets: a key needs the pepper of the gateway that it is for`,
  )
}
