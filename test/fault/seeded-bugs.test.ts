import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { Db } from '../../db/client.ts'
import { createTestDatabase } from '../support/database.ts'
import { checkSequence, checkStorm } from '../support/money-check.ts'
import { anyOp } from '../support/money-world.ts'

/** Mistakes that one could make in the database functions, as a change of their text. */
const BUGS: [name: string, fn: string, from: string, to: string][] = [
  [
    'a settled job is settled again',
    'settle_job',
    "j.state IN ('succeeded', 'failed', 'canceled', 'expired')",
    'false',
  ],
  [
    'settling does not lock the job',
    'settle_job',
    "input->>'job_id' FOR UPDATE",
    "input->>'job_id'",
  ],
  ['any attempt may settle', 'settle_job', 'j.attempt <> v_attempt', 'false'],
  ['a live worker is settled over', 'settle_job', 'j.lease_until > now()', 'false'],
  [
    'the whole hold is charged',
    'settle_job',
    'PERFORM settle_legs(j.org_id, r.id, r.amount_micros, v_captured)',
    'PERFORM settle_legs(j.org_id, r.id, r.amount_micros, r.amount_micros)',
  ],
  [
    'no usage line',
    'settle_job',
    'IF v_billed > 0 THEN PERFORM write_usage',
    'IF false THEN PERFORM write_usage',
  ],
  [
    'the charge is not posted',
    'post_settlement',
    'WHERE x.amount <> 0',
    'WHERE x.amount <> 0 AND x.txn <> v_charge',
  ],
  [
    'the hold stays pending',
    'post_settlement',
    'WHERE x.amount <> 0',
    'WHERE x.amount <> 0 AND x.txn <> v_release',
  ],
  [
    'rows of days and months keep the hold',
    'settle_legs',
    'RETURNING id, soft_bp',
    "AND kind = 'balance' RETURNING id, soft_bp",
  ],
  ['the job stays in flight', 'settle_legs', "CASE kind WHEN 'balance' THEN 1 ELSE 0 END", '0'],
  ['limits are only looked at, not held to', 'reserve_one', 'IF v_round = 1 THEN', 'IF true THEN'],
  [
    'what was seen before the lock decides',
    'reserve_one',
    'END IF;\n    IF k.id IS NULL',
    'END IF;\n    CONTINUE WHEN v_round = 2;\n    IF k.id IS NULL',
  ],
  ['in-flight limits are forgotten', 'budget_refusal', 'b.inflight >= b.max_inflight', 'false'],
  ['the org is not held on', 'reserve_one', 'ARRAY[k.id, t.id, o.id]', 'ARRAY[k.id, t.id]'],
  [
    'another request under one idempotency key',
    'earlier_job',
    'v_job.request_hash <> p_hash',
    'false',
  ],
  ['an earlier call is not looked for', 'look_at_calls', 'IF v_known THEN', 'IF false THEN'],
  ['a revoked key', 'active_keys', 'k.revoked_at IS NULL', 'true'],
  [
    'a limit of a day or month forgets what was before',
    'set_period_limit',
    'PERFORM count_period(b, p_kind, v_start)',
    'NULL',
  ],
  ['a day is not held on', 'period_rows', 'IF b.day_limit_micros IS NOT NULL', 'IF false'],
  ['a day counts the whole month', 'period_of', 'date_trunc(p_kind', "date_trunc('month'"],
  [
    'a lowered limit lets in what fits under the old one',
    'limit_over',
    'greatest(p_wish, p_committed)',
    'greatest(p_wish, p_committed + 15000)',
  ],
  [
    'a lowered limit stays where it was when holds are released',
    'settle_legs',
    'limit_over(limit_next_micros, held_micros + spent_micros - p_amount + p_captured)',
    'limit_micros',
  ],
  ['the wish of a lowered limit is forgotten', 'limit_wish', 'p_wish < p_committed', 'false'],
  [
    'a threshold is measured against holds too',
    'alert_thresholds',
    'b.spent_micros::numeric *',
    '(b.spent_micros + b.held_micros)::numeric *',
  ],
  ['a threshold is told before it is reached', 'alert_thresholds', '* x.bp', '* x.bp / 2'],
  ['no threshold is told', 'settle_legs', 'v_watched IS NOT NULL', 'false'],
  [
    'thresholds of the day under way are not set',
    'set_thresholds',
    "kind = 'balance' OR",
    "kind = 'balance' OR false AND",
  ],
  [
    'a threshold is measured against the limit that is still in force',
    'alert_thresholds',
    'coalesce(b.limit_next_micros, b.limit_micros)::numeric * x.bp',
    'b.limit_micros::numeric * x.bp',
  ],
  ['a payment is granted twice', 'grant_credit', 'RETURN false;', 'NULL;'],
  ['a payment stands for another amount', 'grant_credit', 'amount_micros = p_amount', 'true'],
  [
    'credit for an org that pays later',
    'grant_credit',
    "v_mode = 'postpaid' AND p_kind = 'paid'",
    'false',
  ],
  ['credit is not burned', 'burn_credit', 'remaining_micros - v_part', 'remaining_micros'],
  ['a prepaid limit is set by hand', 'set_budget', "RETURN 'credit_is_granted'", 'NULL'],
]

/** Those of the way on which batches go, and single calls that are not plainly accepted. */
const BATCH_BUGS: typeof BUGS = [
  ['limits are only looked at, not held to', 'read_levels', 'FOR NO KEY UPDATE', 'OFFSET 0'],
  [
    'what was seen before the lock decides',
    'reserve_batch',
    'v_is_new := v_read.budgets <> v_rows',
    'v_is_new := false',
  ],
  [
    'the org is not held on',
    'reserve_batch',
    'FOREACH k IN ARRAY v_touched',
    'FOREACH k IN ARRAY v_touched[1:2]',
  ],
  ['a day is not held on', 'read_levels', 'IF b.day_limit_micros IS NOT NULL', 'IF false'],
]

/** Every call goes the way of batches from now on. */
async function closeShortWay(db: Db): Promise<void> {
  const looks = 'FOR v_round IN 1..2 LOOP'
  await seed(db, 'reserve_one', looks, `RETURN NULL; ${looks}`)
}

/** Applies the mistake to this database. @throws when the text is no longer in the function */
async function seed(db: Db, fn: string, from: string, to: string): Promise<void> {
  const [row] = await db.sql<{ text: string }[]>`
    select pg_get_functiondef(oid) as text from pg_proc where proname = ${fn}`
  if (!row?.text.includes(from)) throw new Error(`${fn} has no text "${from}"`)
  await db.sql.unsafe(row.text.replace(from, to))
}

/** The same sequences every time: a seeded bug that is found once is found always. */
const SEED = 7

/** Mistakes that only callers at the same time can meet. */
const RACES = new Set([
  'settling does not lock the job',
  'limits are only looked at, not held to',
  'what was seen before the lock decides',
])

async function isFound(db: Db, check: typeof checkSequence, numRuns: number): Promise<boolean> {
  const ops = fc.array(anyOp, { minLength: 40, maxLength: 80 })
  const property = fc.asyncProperty(fc.boolean(), ops, (isPrepaid, list) =>
    check(db, isPrepaid, list),
  )
  return (await fc.check(property, { seed: SEED, numRuns, endOnFailure: true })).failed
}

test('without a mistake the same checks find nothing', async () => {
  const database = await createTestDatabase({ maxConnections: 16 })
  try {
    expect(await isFound(database.db, checkSequence, 30)).toBe(false)
    expect(await isFound(database.db, checkStorm, 30)).toBe(false)
  } finally {
    await database.close()
  }
}, 120_000)

test('on the way of batches the same checks find nothing', async () => {
  const database = await createTestDatabase({ maxConnections: 16 })
  try {
    await closeShortWay(database.db)
    expect(await isFound(database.db, checkSequence, 15)).toBe(false)
    expect(await isFound(database.db, checkStorm, 15)).toBe(false)
  } finally {
    await database.close()
  }
}, 120_000)

for (const [name, fn, from, to] of BATCH_BUGS) {
  test(`on the way of batches the checks find: ${name}`, async () => {
    const database = await createTestDatabase({ maxConnections: 16 })
    try {
      await closeShortWay(database.db)
      await seed(database.db, fn, from, to)
      const check = RACES.has(name) ? checkStorm : checkSequence
      expect(await isFound(database.db, check, 100)).toBe(true)
    } finally {
      await database.close()
    }
  }, 120_000)
}

for (const [name, fn, from, to] of BUGS) {
  test(`the checks find: ${name}`, async () => {
    const database = await createTestDatabase({ maxConnections: 16 })
    try {
      await seed(database.db, fn, from, to)
      const check = RACES.has(name) ? checkStorm : checkSequence
      expect(await isFound(database.db, check, 100)).toBe(true)
    } finally {
      await database.close()
    }
  }, 120_000)
}
