import { moveKey, setKeyTags } from '../../billing/move-key.ts'
import type { Db } from '../../db/client.ts'
import { createId } from '../../db/ids.ts'
import { insertKey, listKeys, revokeKey, rotateKey } from '../../db/keys.ts'
import type { KeyRow } from '../../db/keys.ts'
import { listTeams } from '../../db/orgs.ts'
import { SCOPES, createApiKey } from '../../edge/api-key.ts'
import { Refusal, defineCommand } from './command.ts'
import type { Command, Context } from './command.ts'
import { LIMIT_OPTIONS, toLimits } from './limit.ts'
import { readClock, theKey, theOrg, theTeam } from './lookup.ts'
import {
  duration,
  flag,
  instant,
  integer,
  maybe,
  otherwise,
  pairs,
  someOf,
  text,
} from './options.ts'
import type { Row } from './output.ts'

const WEEK_MS = 7 * 86_400_000

const create = defineCommand({
  name: 'key create',
  help: 'Makes an API key and shows it once; only a hash of it is stored. It works at once.',
  args: {},
  options: {
    org: text('ORG', 'id or name'),
    team: maybe(text('TEAM', 'id, name or cost centre; the only team, if left out')),
    name: maybe(text('NAME', "for people; the team's name, if left out")),
    // Paying is left to those who are given it.
    scopes: otherwise(
      someOf(SCOPES, `what it may do: ${SCOPES.join(', ')} (all but billing, which is paying)`),
      SCOPES.filter((scope) => scope !== 'billing'),
    ),
    test: flag(
      'begins with gp_test_, for its owner to tell it apart; it is charged like all others',
    ),
    'expires-in': maybe(duration('ends by itself after minutes, hours or days, such as 90d')),
    'requests-per-minute': maybe(integer('calls a minute, at most', 1)),
    ...LIMIT_OPTIONS,
  },
  async run(context, values) {
    const { db } = context
    const { id: orgId } = await theOrg(db, '--org', values.org)
    const team = await teamFor(db, orgId, values.team)
    const lifeMs = values['expires-in']
    const expiresAt =
      lifeMs === undefined ? null : new Date((await readClock(db)).getTime() + lifeMs)
    const env = values.test ? 'test' : 'live'
    return await showOnce(context, env, async ({ keyId, hash, last4 }) => {
      const owner = { keyId, orgId, teamId: team.id, name: values.name ?? team.name }
      const { scopes } = values
      const requestsPerMinute = values['requests-per-minute'] ?? null
      const rest = { env, hash, last4, scopes, expiresAt, requestsPerMinute } as const
      await insertKey(db, { ...owner, ...rest, ...toLimits(values) })
    })
  },
})

const list = defineCommand({
  name: 'key list',
  help: 'Lists the keys of an organisation that work.',
  args: {},
  options: {
    org: text('ORG', 'id or name'),
    all: flag('revoked and expired ones too'),
  },
  async run({ db }, values) {
    const { id: orgId } = await theOrg(db, '--org', values.org)
    const teams = await listTeams(db, { orgId })
    const names = new Map(teams.map(({ id, name }) => [id, name]))
    const keys = await listKeys(db, { orgId })
    return keys
      .filter(({ state }) => values.all || state === 'active')
      .map((key) => toKeyRow(key, names))
  },
})

const revoke = defineCommand({
  name: 'key revoke',
  help: 'Ends a key for good: no job of it is accepted any more; what it has started goes on. Safe to repeat.',
  args: { key: text('KEY', 'id') },
  options: {},
  async run({ db }, values) {
    const { keyId, orgId } = await theKey(db, 'KEY', values.key)
    await revokeKey(db, { orgId, keyId })
    return await describe(db, keyId)
  },
})

const rotate = defineCommand({
  name: 'key rotate',
  help: `Replaces a key: makes one with the same team, name, scopes, tags and limits, shows it once, and ends the old one
after a while. The new key's own limits count from nothing; those of team and organisation go on.`,
  args: { key: text('KEY', 'id of the old one') },
  options: {
    overlap: otherwise(duration('how long the old one still works (7d)'), WEEK_MS),
  },
  async run(context, values) {
    const { db } = context
    const { keyId } = await theKey(db, 'KEY', values.key)
    const [old] = await listKeys(db, { keyId })
    const oldEndsAt = new Date((await readClock(db)).getTime() + values.overlap)
    const shown = await showOnce(context, old?.env ?? 'live', async (replacement) => {
      if (!(await rotateKey(db, { keyId, oldEndsAt, replacement })))
        throw new Refusal('KEY: it is revoked or has expired; make one with key create')
    })
    const [ended] = await listKeys(db, { keyId })
    return { ...shown, old_id: keyId, old_expires_at: ended?.expiresAt ?? null }
  },
})

const move = defineCommand({
  name: 'key move',
  help: `Gives a key to another team of its organisation. What it used since --from moves there by corrections of today.
Safe to repeat: a repeat also moves what was under way.`,
  args: { key: text('KEY', 'id') },
  options: {
    team: text('TEAM', 'id, name or cost centre'),
    from: maybe(instant("since when its usage is the new team's, not in the future (now)")),
  },
  async run({ db, note }, values) {
    const { keyId, orgId } = await theKey(db, 'KEY', values.key)
    const { id: teamId } = await theTeam(db, '--team', values.team, orgId)
    const validFrom = values.from ?? (await readClock(db))
    const result = await moveKey(db, { keyId, teamId, validFrom })
    if (!result.ok) {
      throw new Refusal(
        result.reason === 'in_future'
          ? '--from: a move cannot begin in the future'
          : `nothing was moved: ${result.reason.replaceAll('_', ' ')}`,
      )
    }
    if (!result.isComplete) note('Not everything is moved yet: call it again with the same --from.')
    const { movedLines, movedMicros, isComplete } = result
    const moved = { moved_lines: movedLines, moved: movedMicros, is_complete: isComplete }
    return { ...(await describe(db, keyId)), from: validFrom, ...moved }
  },
})

const tag = defineCommand({
  name: 'key tag',
  help: "Says what a key's cost is for, in statements and exports; replaces the tags of before.",
  args: { key: text('KEY', 'id') },
  options: { tags: pairs('names and values, such as project=spring,client=acme') },
  async run({ db }, values) {
    const { keyId, orgId } = await theKey(db, 'KEY', values.key)
    await setKeyTags(db, { orgId, keyId, tags: values.tags })
    return await describe(db, keyId)
  },
})

async function teamFor(db: Db, orgId: string, called: string | undefined) {
  if (called !== undefined) return await theTeam(db, '--team', called, orgId)
  const [only, ...others] = await listTeams(db, { orgId })
  if (!only) throw new Refusal('--org: it has no team yet; make one with team create')
  if (others.length === 0) return only
  const names = [only, ...others].map(({ name }) => name).join(', ')
  throw new Refusal(`--team is missing: the organisation has several: ${names}`)
}

/** Makes a key, has it stored, and shows its text, which is nowhere afterwards. */
async function showOnce(
  { db, findPepper, note }: Context,
  env: 'live' | 'test',
  store: (made: { keyId: string; hash: string; last4: string }) => Promise<void>,
): Promise<Row> {
  const { pepper, source } = await findPepper()
  const { key, hash, last4 } = await createApiKey(pepper, env)
  const keyId = createId('key')
  await store({ keyId, hash, last4 })
  note(`The key is shown this once. It was hashed under ${source}: gateways must have the same.`)
  return { ...(await describe(db, keyId)), key }
}

async function describe(db: Db, keyId: string): Promise<Row> {
  const [found] = await listKeys(db, { keyId })
  if (!found) throw new Error(`key ${keyId} is not there`)
  const [team] = await listTeams(db, { orgId: found.orgId, called: found.teamId })
  return toKeyRow(found, new Map(team ? [[team.id, team.name]] : []))
}

/** A key with the name of its team. */
export function toKeyRow(key: KeyRow, names: ReadonlyMap<string, string>): Row {
  return {
    id: key.id,
    name: key.name,
    team: names.get(key.teamId) ?? key.teamId,
    ends_in: key.last4,
    kind: key.env,
    state: key.state,
    scopes: key.scopes,
    tags: key.tags,
    expires_at: key.expiresAt,
    created_at: key.createdAt,
    team_id: key.teamId,
  }
}

export const KEY_COMMANDS: readonly Command[] = [create, list, revoke, rotate, move, tag]
