import { exportStatement } from '../../billing/statement/export.ts'
import { monthOf } from '../../billing/statement/month.ts'
import type { Month } from '../../billing/statement/month.ts'
import type { StatementScope } from '../../billing/statement/rows.ts'
import { checkFocus, parseCsv, sumMicros } from '../support/focus-check.ts'
import type { World } from './world.ts'

/** What was told to be closed is stored with the same bytes, and says what the org's pictures of the month cost. */
export async function checkStatements(world: World): Promise<string[]> {
  const broken: string[] = []
  for (const told of world.journal.statements) {
    const { orgId, month, sha256, json } = told
    const rows = await world.direct.sql<{ sha256: string; document: string }[]>`
      select sha256, document from statement
       where org_id = ${orgId} and team_id is null and to_char(period_start at time zone 'UTC', 'YYYY-MM') = ${month}`
    if (rows.length !== 1) broken.push(`${rows.length} statements of ${orgId} for ${month}`)
    if (rows.some((row) => row.sha256 !== sha256 || row.document !== json))
      broken.push(`a closed statement of ${orgId} has changed`)
    const [sums] = await world.direct.sql<{ usage: bigint; ledger: bigint }[]>`
      select (select coalesce(sum(net_micros), 0)::bigint from usage_event
               where org_id = ${orgId} and to_char(occurred_at at time zone 'UTC', 'YYYY-MM') = ${month}) as usage,
             (select coalesce(-sum(e.amount_micros), 0)::bigint from ledger_txn t join ledger_entry e on e.txn_id = t.id
               where t.kind = 'charge' and e.phase = 'posted' and e.account_id in ('revenue', 'recovery')
                 and to_char(t.occurred_at at time zone 'UTC', 'YYYY-MM') = ${month}
                 and t.source_id in (select substr(id, 5) from job where org_id = ${orgId})) as ledger`
    if (sums && sums.usage !== sums.ledger)
      broken.push(`${orgId} in ${month}: usage ${sums.usage}, ledger ${sums.ledger}`)
    const stated = statedMicros(json)
    if (sums && stated !== sums.usage)
      broken.push(`the statement of ${orgId} for ${month} says ${stated}, usage is ${sums.usage}`)
  }
  for (const { orgId } of world.tenants) {
    for (const month of monthsAround(new Date())) {
      const scope = { orgId, teamId: null, month }
      broken.push(...(await checkFocusOf(world, scope)))
    }
  }
  return broken
}

function monthsAround(now: Date): Month[] {
  const month = monthOf(now)
  return [monthOf(new Date(month.start.getTime() - 1)), month]
}

/** The FOCUS export conforms, and its costs add up to what the statement and the lines of the month say is due. */
async function checkFocusOf(world: World, scope: StatementScope): Promise<string[]> {
  const { orgId, month } = scope
  const focus = { version: '1.4' } as const
  const made = await exportStatement(world.direct, scope, { format: 'focus', focus })
  if (!made) return [`there is no statement of ${orgId} for ${month.month}`]
  let csv = ''
  for await (const piece of made.body) csv += piece
  const broken = checkFocus(csv, focus.version)
  const [sums] = await world.direct.sql<{ due: bigint; images: bigint }[]>`
    select coalesce(sum(net_micros - credit_micros), 0)::bigint as due, coalesce(sum(images), 0)::bigint as images from (
      select org_id, occurred_at, net_micros, credit_micros, 1 as images from usage_event union all
      select org_id, occurred_at, net_micros, credit_micros, images from usage_correction) x
     where org_id = ${orgId} and occurred_at >= ${month.start} and occurred_at < ${month.end}`
  const { rows } = parseCsv(csv)
  const usage = rows.filter(({ ChargeCategory }) => ChargeCategory === 'Usage')
  // What was paid and expired unused is a cost beside what was used.
  const used = rows.filter(({ ChargeCategory }) => ChargeCategory !== 'Adjustment')
  const cost = sumMicros(used, 'EffectiveCost')
  const images = sumMicros(usage, 'ConsumedQuantity') / 1_000_000n
  if (cost !== sums?.due) broken.push(`costs come to ${cost}, due are ${sums?.due}`)
  if (images !== sums?.images) broken.push(`${images} images, the lines have ${sums?.images}`)
  return broken.map((one) => `the FOCUS export of ${orgId} for ${month.month}: ${one}`)
}

/** Net of the usage of the month itself, from the stored JSON. */
function statedMicros(json: string): bigint {
  const { usage } = JSON.parse(json) as { usage: { net: string } }
  const usd = usage.net
  const [whole = '0', part = ''] = usd.replace('-', '').split('.')
  const micros = BigInt(whole) * 1_000_000n + BigInt(part.padEnd(6, '0').slice(0, 6))
  return usd.startsWith('-') ? -micros : micros
}
