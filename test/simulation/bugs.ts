import { readFile } from 'node:fs/promises'
import { refundImages } from '../../billing/refund.ts'
import { reserveJob } from '../../billing/reserve.ts'
import type { StripeDeps } from '../../billing/stripe/client.ts'
import { createId } from '../../db/ids.ts'
import type { Db } from '../../db/client.ts'
import { isOutage } from '../../db/outage.ts'
import { markDispatched } from '../../db/outbox.ts'
import type { FakeStripe } from '../support/fake-stripe/server.ts'
import type { createDispatcher } from './message-queue.ts'

/** A mistake that somebody could make, put into one database or one world. */
export interface Bug {
  readonly name: string
  /** What a finding must say to be this one's; without it anything but that something took too long. */
  readonly sign?: RegExp
  /** Changes the database before anything happens in it. */
  readonly seed?: (db: Db) => Promise<void>
  /** Changes the text of the product's statements. */
  readonly rewrite?: (sql: string) => string
  readonly wrapStripe?: (deps: StripeDeps, fake: FakeStripe) => StripeDeps
  readonly wrapDispatcher?: typeof createDispatcher
  readonly reserve?: typeof reserveJob
  readonly refund?: typeof refundImages
}

/** Another text in a database function. @throws when the text is no longer in it */
function inFunction(fn: string, from: string, to: string): NonNullable<Bug['seed']> {
  return async (db) => {
    const [row] = await db.sql<{ text: string }[]>`
      select pg_get_functiondef(oid) as text from pg_proc where proname = ${fn}`
    if (!row?.text.includes(from)) throw new Error(`${fn} has no text "${from}"`)
    await db.sql.unsafe(row.text.replace(from, to))
  }
}

/** Another text in a statement of the product. @throws when the text is no longer in it */
function inStatement(of: string, from: string, to: string): NonNullable<Bug['rewrite']> {
  return (sql) => {
    if (!sql.includes(of)) return sql
    if (!sql.includes(from)) throw new Error(`the statement "${of}" has no text "${from}"`)
    return sql.replace(from, to)
  }
}

/** What was found at the look without locks is not looked for again under them. */
async function decideBeforeLock(db: Db): Promise<void> {
  const decides = 'END IF;\n    IF k.id IS NULL'
  const isSkipped = 'END IF;\n    CONTINUE WHEN v_round = 2;\n    IF k.id IS NULL'
  await inFunction('reserve_one', decides, isSkipped)(db)
  await inFunction('reserve_batch', 'v_is_new := v_read.budgets <> v_rows', 'v_is_new := false')(db)
}

const CHAINED = new URL('../fault/chained-reserve.sql', import.meta.url)

export const BUGS: readonly Bug[] = [
  {
    name: 'reserve by three chained UPDATEs',
    sign: /budget/,
    seed: async (db) => void (await db.sql.unsafe(await readFile(CHAINED, 'utf8'))),
  },
  {
    name: 'no unique key of an order, and it is looked for before the lock',
    sign: /one order became/,
    seed: async (db) => {
      await db.sql.unsafe('drop index job_idempotency_once')
      await decideBeforeLock(db)
    },
  },
  {
    name: 'a lost reservation is repeated under a new id',
    reserve: async (db, input) => {
      try {
        return await reserveJob(db, input)
      } catch (error) {
        if (!isOutage(error)) throw error
        return await reserveJob(db, { ...input, job: { ...input.job, id: createId('job') } })
      }
    },
  },
  {
    name: 'settling does not lock the job',
    seed: inFunction('settle_job', "input->>'job_id' FOR UPDATE", "input->>'job_id'"),
  },
  {
    name: 'any attempt may capture (zombie)',
    sign: /was ended by|charged|usage lines|budget/,
    seed: inFunction('settle_job', 'j.attempt <> v_attempt', 'false'),
  },
  {
    name: 'any attempt may store an image (zombie)',
    rewrite: inStatement(
      'insert into job_output',
      'and attempt = $2 and state',
      'and $2::int > 0 and state',
    ),
  },
  {
    name: 'a live worker is settled over',
    seed: inFunction('settle_job', 'j.lease_until > now()', 'false'),
  },
  {
    name: 'cancel forgets to release',
    seed: inFunction(
      'settle_job',
      'PERFORM settle_legs(j.org_id, r.id, r.amount_micros, v_captured)',
      "IF v_outcome <> 'canceled' THEN PERFORM settle_legs(j.org_id, r.id, r.amount_micros, v_captured); END IF",
    ),
  },
  {
    name: 'the whole hold is charged',
    seed: inFunction(
      'settle_job',
      'PERFORM settle_legs(j.org_id, r.id, r.amount_micros, v_captured)',
      'PERFORM settle_legs(j.org_id, r.id, r.amount_micros, r.amount_micros)',
    ),
  },
  {
    name: 'money as a float',
    seed: inFunction(
      'settle_legs',
      'spent_micros = spent_micros + p_captured',
      'spent_micros = (spent_micros::real + p_captured::real)::bigint',
    ),
  },
  {
    name: 'limits are looked at and not held to',
    seed: async (db) => {
      await inFunction('reserve_one', 'IF v_round = 1 THEN', 'IF true THEN')(db)
      await inFunction('read_levels', 'FOR NO KEY UPDATE', 'OFFSET 0')(db)
    },
  },
  {
    name: 'what was seen before the lock decides',
    sign: /budget|became/,
    seed: decideBeforeLock,
  },
  {
    name: 'the message is marked as sent before it is',
    wrapDispatcher: (db, queue) => ({
      async send({ outboxId, jobId }) {
        await markDispatched(db, outboxId === null ? [] : [outboxId])
        if (queue.strikes('refused')) throw new Error('the queue refused it')
        queue.put(jobId)
      },
    }),
  },
  {
    name: 'a payment is granted again at every look',
    rewrite: (sql) =>
      sql.includes('for update of t')
        ? sql.replace('t.state,', "'pending' as state,")
        : sql.replace(/grant_credit\(\$1, \$2::bigint, \$3/, '$& || random()::text'),
  },
  {
    name: 'a refund is given again by every call',
    seed: async (db) => {
      await db.sql.unsafe('drop index usage_correction_refund_once')
    },
    refund: (db, input) => refundImages(db, { ...input, refundId: createId('job') }),
  },
  {
    name: 'the outbox is not swept',
    // It loses nothing for good: what it does is that jobs wait for ever.
    sign: /never came to an end: \d+ (unfinished jobs|unsent messages)/,
    rewrite: inStatement('update outbox set attempts', "topic = 'job.dispatch'", 'false'),
  },
  {
    name: 'usage paid ahead is sealed for the meter',
    seed: inFunction('seal_due', "o.settlement_mode = 'postpaid'", 'true'),
  },
  {
    name: 'the meter is not told of refunds',
    seed: inFunction(
      'usage_of_span',
      'JOIN usage_correction c ON c.usage_event_id = l.id',
      'JOIN usage_correction c ON c.usage_event_id = l.id AND false',
    ),
  },
  {
    name: 'a limit set in mid-month forgets refunds',
    seed: inFunction('count_period', "c.reason = 'refund'", "c.reason = 'none'"),
  },
  {
    name: 'an object of Stripe is read once and remembered',
    wrapStripe: (deps) => {
      const known = new Map<string, unknown>()
      return withCalls(deps, (path, call) => {
        if (!path.endsWith('.retrieve')) return call
        return async (...input) => {
          const key = `${path} ${String(input[0])}`
          if (!known.has(key)) known.set(key, await call(...input))
          return known.get(key)
        }
      })
    },
  },
  {
    name: 'what Stripe may have applied is sent again under a new key',
    wrapStripe: (deps) =>
      withCalls(deps, (path, call) => (...input) => {
        if (!/^(invoiceItems|paymentIntents|invoices)\.create$/.test(path)) return call(...input)
        return call(input[0], { idempotencyKey: createId('job') })
      }),
  },
]

/** Of anything but the time that a run took or that it could not be made. */
const ANY_SIGN = /^(?!never came to an end|the run itself failed)/

/** The first sentence that this mistake is known by; null when there is none. */
export function findSign(bug: Bug, broken: readonly string[]): string | null {
  const sign = bug.sign ?? ANY_SIGN
  return broken.find((one) => sign.test(one)) ?? null
}

type Call = (...input: unknown[]) => unknown

/** The same Stripe with something put around each call; `path` is such as `invoices.retrieve`. */
function withCalls(deps: StripeDeps, around: (path: string, call: Call) => Call): StripeDeps {
  const wrap = (target: object, path: string): object =>
    new Proxy(target, {
      get(owner, name) {
        const member: unknown = Reflect.get(owner, name)
        const inner = path === '' ? String(name) : `${path}.${String(name)}`
        if (typeof member === 'function') return around(inner, (member as Call).bind(owner))
        return typeof member === 'object' && member !== null ? wrap(member, inner) : member
      },
    })
  return { ...deps, stripe: wrap(deps.stripe, '') as StripeDeps['stripe'] }
}
