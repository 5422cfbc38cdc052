import { UsageError } from '../../billing/command-line.ts'
import { createTeam, listTeams, updateTeam } from '../../db/orgs.ts'
import type { TeamRow } from '../../db/orgs.ts'
import { Refusal, defineCommand } from './command.ts'
import type { Command } from './command.ts'
import { LIMIT_OPTIONS, toLimits } from './limit.ts'
import { refused, theOrg, theTeam } from './lookup.ts'
import { given, maybe, text } from './options.ts'
import type { Row } from './output.ts'

/** SQLSTATE of a second row where there may be one. */
const TAKEN = '23505'

const create = defineCommand({
  name: 'team create',
  help: 'Makes a team of an organisation: a cost centre with keys and limits of its own.',
  args: {},
  options: {
    org: text('ORG', 'id or name'),
    name: text('NAME', 'for people'),
    'cost-centre': maybe(text('CODE', 'once in the organisation; the name, if left out')),
    ...LIMIT_OPTIONS,
  },
  async run({ db }, values) {
    const { name } = values
    const { id: orgId } = await theOrg(db, '--org', values.org)
    const costCentre = values['cost-centre'] ?? name
    const making = createTeam(db, { orgId, name, costCentre, ...toLimits(values) })
    const { teamId } = await refused(making, takenBy(costCentre))
    return toTeamRow(await theTeam(db, '--name', teamId))
  },
})

const list = defineCommand({
  name: 'team list',
  help: 'Lists the teams of an organisation.',
  args: {},
  options: { org: text('ORG', 'id or name') },
  async run({ db }, values) {
    const { id: orgId } = await theOrg(db, '--org', values.org)
    return (await listTeams(db, { orgId })).map(toTeamRow)
  },
})

const set = defineCommand({
  name: 'team set',
  help: 'Names a team or its cost centre anew. Statements of closed months keep what they say.',
  args: { team: text('TEAM', 'id, name or cost centre') },
  options: {
    org: maybe(text('ORG', 'where the name alone does not tell the team')),
    name: maybe(text('NAME', 'for people')),
    'cost-centre': maybe(text('CODE', 'once in the organisation')),
  },
  async run({ db }, values) {
    const changes = given({ name: values.name, costCentre: values['cost-centre'] })
    if (Object.keys(changes).length === 0) {
      throw new UsageError('a change is missing: give --name, --cost-centre or both')
    }
    const org = values.org === undefined ? undefined : await theOrg(db, '--org', values.org)
    const { id: teamId } = await theTeam(db, 'TEAM', values.team, org?.id)
    const isThere = await refused(
      updateTeam(db, { teamId, ...changes }),
      takenBy(changes.costCentre ?? ''),
    )
    if (!isThere) throw new Refusal(`TEAM: there is no team "${teamId}"`)
    return toTeamRow(await theTeam(db, 'TEAM', teamId))
  },
})

function takenBy(costCentre: string): Record<string, string> {
  return { [TAKEN]: `--cost-centre: the organisation has a team with "${costCentre}" already` }
}

export function toTeamRow(team: TeamRow): Row {
  const { id, name, costCentre, createdAt } = team
  return { id, name, cost_centre: costCentre, created_at: createdAt }
}

export const TEAM_COMMANDS: readonly Command[] = [create, list, set]
