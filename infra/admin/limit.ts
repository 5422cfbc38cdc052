import { readLevel } from '../../billing/balance.ts'
import type { LevelBalance, PeriodBalance } from '../../billing/balance.ts'
import { UsageError } from '../../billing/command-line.ts'
import type { Db } from '../../db/client.ts'
import { isId } from '../../db/ids.ts'
import { setBudget } from '../../db/orgs.ts'
import type { BudgetScope, Limits, SetBudgetResult } from '../../db/orgs.ts'
import { Refusal, defineCommand } from './command.ts'
import type { Command } from './command.ts'
import { theKey, theOrg, theTeam } from './lookup.ts'
import { given, integer, maybe, orNone, percents, text, usdOrZero } from './options.ts'
import type { Row } from './output.ts'

/** A limit more is a line here and one in `toLimits`. */
export const LIMIT_OPTIONS = {
  day: maybe(orNone(usdOrZero('held and spent in a day (UTC), at most'))),
  month: maybe(orNone(usdOrZero('held and spent in a calendar month (UTC), at most'))),
  total: maybe(
    orNone(usdOrZero('held and spent in all, at most; prepaid organisations have credit')),
  ),
  'max-inflight': maybe(orNone(integer('unfinished jobs at a time, at most', 0))),
  soft: maybe(
    orNone(percents('tells the organisation once at shares of each limit, such as 50,80,100')),
  ),
}

type LimitValues = {
  readonly [Name in keyof typeof LIMIT_OPTIONS]: NonNullable<
    (typeof LIMIT_OPTIONS)[Name]['absent']
  >['value']
}

/** What the options say; a limit that is not named is not in it. */
export function toLimits(values: LimitValues): Limits {
  return given({
    dayLimitMicros: values.day,
    monthLimitMicros: values.month,
    creditMicros: values.total,
    maxInflight: values['max-inflight'],
    softBp: values.soft,
  })
}

const WHY_NOT: Record<Extract<SetBudgetResult, { ok: false }>['reason'], string> = {
  below_committed: '--max-inflight: nothing was changed: more jobs are unfinished than it allows',
  invalid_threshold: '--soft: a threshold is from 0.01% to 100%',
  negative_limit: 'a limit cannot be negative',
  not_found: 'there is no such level',
  credit_is_granted:
    '--total: a prepaid organisation can spend the credit that it has; see credit grant',
}

const show = defineCommand({
  name: 'limit show',
  help: 'Shows limits and what counts on them: of an organisation, team or key.',
  args: { id: text('ID', 'id of an organisation, team or key') },
  options: {},
  async run({ db }, { id }) {
    const scope = scopeOf(id)
    if (!scope) throw new UsageError(`ID must begin with org_, team_ or key_, not "${id}"`)
    return await showLevel(db, { scope, scopeId: id })
  },
})

const set = defineCommand({
  name: 'limit set',
  help: `Changes limits: of one organisation, team or key. What is not named stays; none takes a limit away. A limit
below what is held and spent lets no new work in; what was accepted runs on.`,
  args: {},
  options: {
    org: maybe(text('ORG', 'id or name')),
    team: maybe(text('TEAM', 'id, name or cost centre')),
    key: maybe(text('KEY', 'id')),
    ...LIMIT_OPTIONS,
  },
  async run({ db }, values) {
    const limits = toLimits(values)
    if (Object.keys(limits).length === 0) {
      const names = Object.keys(LIMIT_OPTIONS).map((name) => `--${name}`)
      throw new UsageError(`a limit is missing: give some of ${names.join(', ')}`)
    }
    const level = await theLevel(db, values)
    const result = await setBudget(db, { ...level, ...limits })
    if (!result.ok) throw new Refusal(WHY_NOT[result.reason])
    return await showLevel(db, level)
  },
})

/** With a key its team and org may be named too; the lowest one counts nowhere else, so exactly one is taken. */
async function theLevel(
  db: Db,
  names: { org: string | undefined; team: string | undefined; key: string | undefined },
): Promise<{ scope: BudgetScope; scopeId: string }> {
  const { org, team, key } = names
  if (key !== undefined && org === undefined && team === undefined) {
    return { scope: 'key', scopeId: (await theKey(db, '--key', key)).keyId }
  }
  if (team !== undefined && key === undefined) {
    // A name of a team may need its org to be clear.
    const inOrg = org === undefined ? undefined : (await theOrg(db, '--org', org)).id
    return { scope: 'team', scopeId: (await theTeam(db, '--team', team, inOrg)).id }
  }
  if (org !== undefined && key === undefined) {
    return { scope: 'org', scopeId: (await theOrg(db, '--org', org)).id }
  }
  throw new UsageError(
    'exactly one level must be named: --org, --team (with its --org, if need be) or --key',
  )
}

async function showLevel(db: Db, level: { scope: BudgetScope; scopeId: string }): Promise<Row> {
  const found = await readLevel(db, level)
  if (!found) throw new Refusal(`there is no ${level.scope} "${level.scopeId}"`)
  return toRow(found)
}

/** A level with its limits and what counts on them. */
export function toRow(level: LevelBalance): Row {
  return {
    scope: level.scope,
    id: level.scopeId,
    ...periodOf('day', level.day),
    ...periodOf('month', level.month),
    total_limit: level.creditNextMicros ?? level.creditMicros,
    total_spent: level.spentMicros,
    total_held: level.heldMicros,
    inflight: level.inflight,
    max_inflight: level.maxInflight,
    soft: level.softBp.map((bp) => `${bp / 100}%`),
  }
}

/** A limit that was lowered under load is shown as it was set; what stands above it runs on. */
function periodOf(name: string, period: PeriodBalance): Row {
  const limit = period.limitNextMicros ?? period.limitMicros
  return {
    [`${name}_limit`]: limit,
    [`${name}_spent`]: limit === null ? null : period.spentMicros,
    [`${name}_held`]: limit === null ? null : period.heldMicros,
  }
}

function scopeOf(id: string): BudgetScope | null {
  return (['org', 'team', 'key'] as const).find((scope) => isId(scope, id)) ?? null
}

export const LIMIT_COMMANDS: readonly Command[] = [show, set]
