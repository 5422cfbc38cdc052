import { checkBooks } from '../support/books.ts'
import { checkCopies } from './oracle-copies.ts'
import { checkStatements } from './oracle-statements.ts'
import { checkStripe } from './oracle-stripe.ts'
import { isDue } from './journal.ts'
import type { Order } from './journal.ts'
import { checkWatch } from './watch.ts'
import type { World } from './world.ts'

interface JobFacts {
  id: string
  orgId: string
  keyId: string
  idempotencyKey: string | null
  requestHash: string
  n: number
  state: string
  held: string
  unit: bigint
  amount: bigint
  captured: bigint
  charged: bigint
  lines: bigint
  objects: { idx: number; key: string; sha256: string }[]
}

/**
 * Compares what the product wrote with what the outside knows: the callers' answers, the objects that were stored,
 * Stripe's own books. One sentence per difference; the rules share no code with the product.
 */
export async function checkAll(world: World): Promise<string[]> {
  const jobs = await readJobs(world)
  return [
    ...checkOrders(world, jobs),
    ...checkPictures(world, jobs),
    ...(await checkTokens(world)),
    ...(await checkMoney(world, jobs)),
    ...(await checkDeliveries(world)),
    ...(await checkWatch(world)),
    ...(await checkStripe(world)),
    ...(await checkCopies(world)),
    ...(await checkStatements(world)),
    ...(await checkBooks(world.direct)),
  ]
}

function readJobs(world: World): Promise<JobFacts[]> {
  return world.direct.sql<JobFacts[]>`
    select j.id, j.org_id as "orgId", j.key_id as "keyId", j.idempotency_key as "idempotencyKey",
           j.request_hash as "requestHash", j.n, j.state, r.state as held, r.unit_micros as unit,
           r.amount_micros as amount, r.captured_micros as captured,
           (select coalesce(sum(net_micros), 0)::bigint from usage_event u where u.job_id = j.id) as charged,
           (select count(*) from usage_event u where u.job_id = j.id) as lines,
           (select coalesce(json_agg(json_build_object('idx', o.idx, 'key', o.object_key, 'sha256', o.sha256)), '[]')
              from job_output o where o.job_id = j.id) as objects
      from job j left join reservation r on r.job_id = j.id`
}

/** Each accepted order is one job, none is lost, none was made that nobody asked for. */
function checkOrders(world: World, jobs: readonly JobFacts[]): string[] {
  const broken: string[] = []
  const byId = new Map(jobs.map((job) => [job.id, job]))
  const ordersOf = new Map<string, Order>()
  for (const order of world.journal.orders) {
    for (const jobId of order.tried.keys()) ordersOf.set(jobId, order)
    const made = [...order.tried.keys()].filter((jobId) => byId.has(jobId))
    if (made.length > 1) broken.push(`doubled: one order became the jobs ${made.join(', ')}`)
    for (const [jobId, n] of order.acknowledged) {
      const job = byId.get(jobId)
      if (!job) broken.push(`lost: job ${jobId} was accepted and is not there`)
      else if (job.n !== n || job.requestHash !== `body ${n}`)
        broken.push(`doubled: an answer for ${n} images names job ${jobId} with ${job.n}`)
      else if (!order.tried.has(jobId))
        broken.push(`doubled: an answer names job ${jobId} of another order`)
    }
  }
  for (const job of jobs) {
    const order = ordersOf.get(job.id)
    if (!order) broken.push(`job ${job.id} was never asked for`)
    else if (job.keyId !== order.keyId || job.unit !== order.unitMicros)
      broken.push(`job ${job.id} has another key or price than its order`)
  }
  return broken
}

/** Tokens are kept for another attempt, and there is none after the end. */
async function checkTokens(world: World): Promise<string[]> {
  const rows = await world.direct.sql<{ id: string }[]>`
    select job_id as id from job_tokens t join job j on j.id = t.job_id where j.finished_at is not null`
  return rows.map(({ id }) => `job ${id} has ended and left tokens`)
}

const UNBILLED = new Set(['failed', 'canceled', 'expired'])

/** A charge for each picture that can be fetched and for nothing else; the rest of every hold came back. */
function checkPictures(world: World, jobs: readonly JobFacts[]): string[] {
  const broken: string[] = []
  for (const job of jobs) {
    const charged = job.objects.filter(({ sha256 }) => isDue(world.journal, job.id, sha256))
    const due = job.unit * BigInt(charged.length)
    const what = `job ${job.id} (${job.state}, ${job.objects.length} of ${job.n} images)`
    for (const { idx, key, sha256 } of job.objects) {
      const stored = world.pictures.get(key)
      if (!stored) broken.push(`lost: ${what} names a picture that the store does not have`)
      else if (stored.jobId !== job.id || stored.idx !== idx || stored.sha256 !== sha256)
        broken.push(`doubled: ${what} names a picture of ${stored.jobId}`)
    }
    if (job.charged > due || job.captured > due)
      broken.push(`doubled: ${what} is charged ${job.charged}, due are ${due}`)
    if (job.charged < due || job.captured < due)
      broken.push(`lost: ${what} is charged ${job.charged}, due are ${due}`)
    if (job.lines !== BigInt(charged.length)) broken.push(`${what} has ${job.lines} usage lines`)
    if (job.amount !== job.unit * BigInt(job.n)) broken.push(`${what} held ${job.amount}`)
    if (job.held === 'held') broken.push(`${what} still holds ${job.amount}`)
    if (UNBILLED.has(job.state) && job.objects.length > 0) broken.push(`${what} hides its pictures`)
    if (job.state === 'succeeded' && job.objects.length === 0) broken.push(`${what} has none`)
  }
  return broken
}

/** Grants and refunds happened once for each that was asked for and answered, and never without being asked for. */
async function checkMoney(world: World, jobs: readonly JobFacts[]): Promise<string[]> {
  const broken: string[] = []
  const { grants, refunds } = world.journal
  const rows = await world.direct.sql<{ source: string; orgId: string; micros: bigint }[]>`
    select source_id as source, org_id as "orgId", amount_micros as micros from credit_grant`
  const payments = [...world.fake.state.intents.values()].filter(
    ({ status }) => status === 'succeeded',
  )
  for (const { sourceId, amountMicros, isAcknowledged } of grants) {
    const found = rows.filter(({ source }) => source === sourceId)
    if (found.length > 1) broken.push(`doubled: credit of ${sourceId}`)
    if (isAcknowledged && found.length === 0) broken.push(`lost: credit of ${sourceId}`)
    if (found.some(({ micros }) => micros !== amountMicros))
      broken.push(`credit of ${sourceId} has another amount`)
  }
  const bought = new Map<string, bigint>()
  for (const { id, amount } of payments) bought.set(id, BigInt(amount) * 10_000n)
  for (const { source, micros } of rows) {
    if (grants.some(({ sourceId }) => sourceId === source)) continue
    if (bought.get(source) !== micros) broken.push(`doubled: credit ${source} that nobody paid`)
    bought.delete(source)
  }
  for (const id of bought.keys()) broken.push(`lost: payment ${id} was never credited`)
  const corrections = await world.direct.sql<{ jobId: string; idx: number; count: bigint }[]>`
    select u.job_id as "jobId", u.idx, count(*) from usage_correction c join usage_event u on u.id = c.usage_event_id
     where c.reason = 'refund' group by 1, 2`
  const asked = new Set(
    refunds.flatMap(({ jobId, indexes }) => indexes.map((idx) => `${jobId} ${idx}`)),
  )
  for (const { jobId, idx, count } of corrections) {
    if (count > 1n) broken.push(`doubled: refund of ${jobId} ${idx}`)
    if (!asked.has(`${jobId} ${idx}`)) broken.push(`refund of ${jobId} ${idx} that nobody wanted`)
  }
  for (const { jobId, indexes, isAcknowledged } of refunds) {
    const job = jobs.find(({ id }) => id === jobId)
    for (const idx of indexes) {
      const isThere = corrections.some((one) => one.jobId === jobId && one.idx === idx)
      const isCharged = job?.objects.some(
        (object) => object.idx === idx && isDue(world.journal, jobId, object.sha256),
      )
      if (isAcknowledged && isCharged && !isThere) broken.push(`lost: refund of ${jobId} ${idx}`)
    }
  }
  return broken
}

/** Every finished job was told to its org's receiver, in one wording. */
async function checkDeliveries(world: World): Promise<string[]> {
  const broken: string[] = []
  const rows = await world.direct.sql<{ jobId: string; state: string; told: string | null }[]>`
    select j.id as "jobId", j.state, d.state as told
      from job j left join webhook_event e on e.subject_id = j.id
      left join webhook_delivery d on d.event_id = e.id where j.finished_at is not null`
  for (const { jobId, state, told } of rows) {
    const bodies = world.journal.deliveries.get(jobId)
    if (told === 'canceled' || told === 'failed') continue
    if (!bodies) broken.push(`lost: the end of job ${jobId} (${state}) was never told (${told})`)
    else if (bodies.size > 1) broken.push(`doubled: the end of job ${jobId} was told in two ways`)
  }
  return broken
}
