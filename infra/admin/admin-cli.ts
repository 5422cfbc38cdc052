import { fileURLToPath } from 'node:url'
import { UsageError } from '../../billing/command-line.ts'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { codeOf, isOutage, isOutcomeUnknown } from '../../db/outage.ts'
import { Refusal } from './command.ts'
import type { Command, Invocation } from './command.ts'
import { CONTRACT_COMMANDS } from './contract.ts'
import { CREDIT_COMMANDS } from './credit.ts'
import { helpFor, overview } from './help.ts'
import { JOB_COMMANDS } from './job.ts'
import { KEY_COMMANDS } from './key.ts'
import { LIMIT_COMMANDS } from './limit.ts'
import { ORG_COMMANDS } from './org.ts'
import { toJson, toText } from './output.ts'
import { findPepper, findPlace } from './place.ts'
import type { AdminEnv, Place } from './place.ts'
import { PRICE_COMMANDS } from './price.ts'
import { TEAM_COMMANDS } from './team.ts'

const COMMANDS: readonly Command[] = [
  ...ORG_COMMANDS,
  ...TEAM_COMMANDS,
  ...KEY_COMMANDS,
  ...LIMIT_COMMANDS,
  ...CREDIT_COMMANDS,
  ...PRICE_COMMANDS,
  ...CONTRACT_COMMANDS,
  ...JOB_COMMANDS,
]

/** Moving a long history of a key takes many short statements; none of them takes this. */
const STATEMENT_TIMEOUT_MS = 30_000
const REFUSED = 1
const BAD_USAGE = 2
/** A table that is not there. */
const NO_TABLE = '42P01'
/** A password or user that the server does not know: another server has taken the port. */
const NOT_OURS = /^28/

export interface AdminStreams {
  /** The result. */
  readonly out: (text: string) => void
  /** Everything else. */
  readonly err: (text: string) => void
}

/** Runs one command line. @returns the exit status */
export async function runAdmin(
  typed: readonly string[],
  env: AdminEnv,
  { out, err }: AdminStreams,
): Promise<number> {
  try {
    if (typed.length === 0 || typed.includes('--help')) {
      const isAsked = typed.length > 0
      ;(isAsked ? out : err)(helpOn(typed))
      return isAsked ? 0 : BAD_USAGE
    }
    const invocation = read(typed)
    const outcome = await carryOut(invocation, env, err)
    out(invocation.isJson ? toJson(outcome) : toText(outcome))
    return 0
  } catch (error) {
    err(error instanceof Error ? error.message : String(error))
    return error instanceof UsageError ? BAD_USAGE : REFUSED
  }
}

function helpOn(typed: readonly string[]): string {
  const command = findCommand(typed)
  if (command) return helpFor([command])
  const own = commandsOf(typed[0])
  return own.length > 0 ? helpFor(own) : overview(COMMANDS)
}

/** @throws UsageError with every broken rule, and where help is */
function read(typed: readonly string[]): Invocation {
  const command = findCommand(typed)
  const [noun = '', verb] = typed
  try {
    if (command) return command.read(typed.slice(command.name.split(' ').length))
    const verbs = commandsOf(noun).map(({ name }) => name.split(' ')[1])
    if (verbs.length === 0) throw new UsageError(`There is no "${noun}".`)
    const problem = verb === undefined ? `${noun} needs a verb` : `${noun} has no verb "${verb}"`
    throw new UsageError(`${problem}: ${verbs.join(', ')}`)
  } catch (error) {
    if (!(error instanceof UsageError)) throw error
    const place = command?.name ?? (commandsOf(noun).length > 0 ? noun : '')
    const hint = `See npm run admin -- ${place} --help`.replace('  ', ' ')
    throw new UsageError(`${error.message}\n${hint}`, { cause: error })
  }
}

function commandsOf(noun: string | undefined): readonly Command[] {
  return COMMANDS.filter(({ name }) => name.split(' ')[0] === noun)
}

/** The command whose words the line begins with. */
function findCommand(typed: readonly string[]): Command | undefined {
  return COMMANDS.find(({ name }) => name.split(' ').every((word, at) => typed[at] === word))
}

async function carryOut(invocation: Invocation, env: AdminEnv, note: (text: string) => void) {
  const { stateDir } = invocation
  const place = await findPlace(env, stateDir)
  const db = openDatabase(place.databaseUrl, {
    maxConnections: 2,
    applicationName: 'glyphpress-admin',
    statementTimeoutMs: STATEMENT_TIMEOUT_MS,
  })
  try {
    return await invocation.run({ db, note, findPepper: () => findPepper(env, stateDir) })
  } catch (error) {
    throw explain(error, place)
  } finally {
    await closeDatabase(db)
  }
}

/** Says of a database that does not work what a person can do about it. */
function explain(error: unknown, { name }: Place): unknown {
  if (error instanceof Refusal || error instanceof UsageError) return error
  const code = codeOf(error)
  if (isOutcomeUnknown(error)) {
    const words = `${name} broke off (${code}): whether this was done is not known; look before you repeat it.`
    return new Error(words, { cause: error })
  }
  if (isOutage(error)) return new Error(`${name} does not answer (${code}).`, { cause: error })
  if (NOT_OURS.test(code)) return new Error(`${name} lets nobody in: ${String(error)}`)
  if (code === NO_TABLE)
    return new Error(`${name} lacks tables: migrate it with npm run db:migrate.`, { cause: error })
  return error
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.exitCode = await runAdmin(process.argv.slice(2), process.env, {
    out: console.log,
    err: console.error,
  })
}
