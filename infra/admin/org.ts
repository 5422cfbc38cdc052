import { readLevelsOfOrg, readReceivable } from '../../billing/balance.ts'
import { listContracts } from '../../billing/price-list.ts'
import type { Db } from '../../db/client.ts'
import { listKeys } from '../../db/keys.ts'
import { createOrg, listOrgs, listTeams } from '../../db/orgs.ts'
import type { OrgRow } from '../../db/orgs.ts'
import { Refusal, defineCommand } from './command.ts'
import type { Command } from './command.ts'
import { toContractRow } from './contract.ts'
import { toKeyRow } from './key.ts'
import { toRow } from './limit.ts'
import { theOrg } from './lookup.ts'
import { oneOf, text } from './options.ts'
import type { Report, Row } from './output.ts'
import { toTeamRow } from './team.ts'

const MODES = ['prepaid', 'postpaid', 'internal'] as const

const create = defineCommand({
  name: 'org create',
  help: `Makes an organisation: whoever is billed. prepaid spends credit that it has, postpaid is invoiced, internal is
charged back by team. The mode cannot be changed once there are jobs.`,
  args: {},
  options: {
    name: text('NAME', 'tells organisations apart here'),
    mode: oneOf(MODES, 'how it pays'),
  },
  async run({ db }, { name, mode }) {
    const [same] = await listOrgs(db, name)
    if (same) throw new Refusal(`--name: ${same.id} is called "${name}" already`)
    const kind = mode === 'internal' ? 'internal' : 'external'
    const { orgId } = await createOrg(db, { name, kind, settlementMode: mode })
    return toOrgRow(await theOrg(db, '--name', orgId))
  },
})

const list = defineCommand({
  name: 'org list',
  help: 'Lists all organisations.',
  args: {},
  options: {},
  run: async ({ db }) => (await listOrgs(db)).map(toOrgRow),
})

const show = defineCommand({
  name: 'org show',
  help: `Shows an organisation: money, limits and what counts on them, contracts, teams, keys. A frozen one starts no
job until its disputed payment, returned payment or overdue invoice is settled; nobody else freezes or thaws.`,
  args: { org: text('ORG', 'id or name') },
  options: {},
  run: async ({ db }, values) => await describe(db, await theOrg(db, 'ORG', values.org)),
})

async function describe(db: Db, org: OrgRow): Promise<Report> {
  const [levels, teams, keys, contracts, owed] = await Promise.all([
    readLevelsOfOrg(db, org.id),
    listTeams(db, { orgId: org.id }),
    listKeys(db, { orgId: org.id }),
    listContracts(db, org.id),
    readReceivable(db, org.id),
  ])
  const own = levels.find(({ scope }) => scope === 'org')
  const isPrepaid = org.mode === 'prepaid'
  const names = new Map([...teams, ...keys, org].map(({ id, name }) => [id, name]))
  return {
    ...toOrgRow(org),
    frozen_since: org.frozenAt,
    credit_available: isPrepaid ? (own?.availableMicros ?? 0n) : null,
    owes: org.mode === 'internal' ? null : owed,
    spent: own?.spentMicros ?? 0n,
    held: own?.heldMicros ?? 0n,
    inflight: own?.inflight ?? 0,
    contracts: contracts.map(toContractRow),
    teams: teams.map(toTeamRow),
    keys: keys.map((key) => toKeyRow(key, names)),
    limits: levels.map((level) => {
      const { scope, ...rest } = toRow(level)
      return { scope: scope ?? null, name: names.get(level.scopeId) ?? null, ...rest }
    }),
  }
}

function toOrgRow(org: OrgRow): Row {
  return {
    id: org.id,
    name: org.name,
    mode: org.mode,
    frozen: org.frozenReason,
    created_at: org.createdAt,
  }
}

export const ORG_COMMANDS: readonly Command[] = [create, list, show]
