import { grantCredit, listCredit } from '../../billing/credit.ts'
import { readLevel } from '../../billing/balance.ts'
import { defineCommand } from './command.ts'
import type { Command } from './command.ts'
import { refused, theOrg } from './lookup.ts'
import { instant, integer, maybe, oneOf, otherwise, text, usd } from './options.ts'

const KINDS = ['paid', 'promo'] as const

const grant = defineCommand({
  name: 'credit grant',
  help: `Adds credit to an organisation, once per source: a repeat changes nothing. Prepaid organisations have paid and promo
credit, postpaid ones promo credit, which lowers what they owe.`,
  args: {},
  options: {
    org: text('ORG', 'id or name'),
    usd: usd('how much'),
    kind: oneOf(KINDS, 'paid for, or given'),
    source: text('REF', 'what it came from, such as a bank transfer; unique for ever'),
    expires: maybe(instant('when what is left of it ends; a day is its start in UTC')),
    priority: otherwise(integer('credit with a low number is spent first (50)', 0, 1000), 50),
  },
  async run({ db, note }, values) {
    const { kind, priority, source } = values
    const { id: orgId, mode } = await theOrg(db, '--org', values.org)
    const expiresAt = values.expires ?? null
    const credit = { amountMicros: values.usd, sourceId: source, kind, priority, expiresAt }
    const isNew = await refused(grantCredit(db, { orgId, ...credit }))
    if (!isNew) note('This source was granted before: nothing was changed.')
    const level = await readLevel(db, { scope: 'org', scopeId: orgId })
    return {
      org: orgId,
      kind,
      amount: values.usd,
      source,
      granted: isNew,
      credit_available: mode === 'prepaid' ? (level?.availableMicros ?? null) : null,
    }
  },
})

const list = defineCommand({
  name: 'credit list',
  help: 'Lists the credit that an organisation was granted and what is left of it.',
  args: {},
  options: { org: text('ORG', 'id or name') },
  async run({ db }, values) {
    const { id: orgId } = await theOrg(db, '--org', values.org)
    return (await listCredit(db, orgId)).map((row) => ({
      id: row.id,
      kind: row.kind,
      amount: row.amountMicros,
      remaining: row.remainingMicros,
      priority: row.priority,
      source: row.sourceId,
      expires_at: row.expiresAt,
      created_at: row.createdAt,
    }))
  },
})

export const CREDIT_COMMANDS: readonly Command[] = [grant, list]
