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
  return broken
}

/** Net of the usage of the month itself, from the stored JSON. */
function statedMicros(json: string): bigint {
  const { usage } = JSON.parse(json) as { usage: { net: string } }
  const usd = usage.net
  const [whole = '0', part = ''] = usd.replace('-', '').split('.')
  const micros = BigInt(whole) * 1_000_000n + BigInt(part.padEnd(6, '0').slice(0, 6))
  return usd.startsWith('-') ? -micros : micros
}
