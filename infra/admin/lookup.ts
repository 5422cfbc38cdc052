import type { Db } from '../../db/client.ts'
import { codeOf } from '../../db/outage.ts'
import { findKeyById } from '../../db/keys.ts'
import type { KeyPrincipal } from '../../db/keys.ts'
import { listOrgs, listTeams } from '../../db/orgs.ts'
import type { OrgRow, TeamRow } from '../../db/orgs.ts'
import { Refusal } from './command.ts'

/** The org that an id or name means. @throws Refusal when there is none, or more than one */
export async function theOrg(db: Db, option: string, called: string): Promise<OrgRow> {
  return theOnly(option, 'organisation', called, await listOrgs(db, called))
}

/** The team that an id, name or cost centre means, in an org or in all. @throws Refusal as above */
export async function theTeam(
  db: Db,
  option: string,
  called: string,
  orgId?: string,
): Promise<TeamRow> {
  const found = await listTeams(db, { called, ...(orgId === undefined ? {} : { orgId }) })
  return theOnly(option, 'team', called, found)
}

/** The key of an id, revoked or not. @throws Refusal when there is none */
export async function theKey(db: Db, option: string, keyId: string): Promise<KeyPrincipal> {
  const found = await findKeyById(db, keyId)
  if (!found) throw new Refusal(`${option}: there is no key "${keyId}"`)
  return found
}

/** By the clock of the database, which is the one that rules about dates are checked against. */
export async function readClock(db: Db): Promise<Date> {
  const [row] = await db.sql<{ now: Date }[]>`select date_trunc('milliseconds', now()) as now`
  if (!row) throw new Error('the database has no clock')
  return row.now
}

/** SQLSTATEs with which our own functions say no, in words for a person, and those of a broken rule of a table. */
const OWN_REFUSALS = ['GP400', 'GP409']

/** Turns what the books refuse into a refusal; what else goes wrong goes on. */
export async function refused<T>(work: Promise<T>, words: Record<string, string> = {}): Promise<T> {
  try {
    return await work
  } catch (error) {
    const code = codeOf(error)
    const own = OWN_REFUSALS.includes(code) && error instanceof Error ? error.message : undefined
    const message = words[code] ?? own
    if (message === undefined) throw error
    throw new Refusal(message, { cause: error })
  }
}

function theOnly<T extends { id: string }>(
  option: string,
  kind: string,
  called: string,
  found: readonly T[],
): T {
  // An id is an id, whatever else has it for a name.
  const [first] = found.filter(({ id }) => id === called).concat(found)
  if (!first) throw new Refusal(`${option}: there is no ${kind} "${called}"`)
  if (found.length > 1 && first.id !== called) {
    const ids = found.map(({ id }) => id).join(', ')
    throw new Refusal(`${option}: more than one ${kind} is called "${called}"; give an id: ${ids}`)
  }
  return first
}
