import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { MARGIN_GROUPS, reportMargin } from '../../billing/margin.ts'
import type { MarginGroup, MarginRow } from '../../billing/margin.ts'
import { refundImages } from '../../billing/refund.ts'
import { settleJob } from '../../billing/settle.ts'
import { claimJob } from '../../db/job-claims.ts'
import type { TextTerms } from '../../db/text-terms.ts'
import { checkBooks } from '../support/books.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { MISSED, createBareKey, createBareTenant, deliver, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'

/** An hour costs 6.88 USD. */
const GPU_HOUR_MICROS = 6_880_000n
let database: TestDatabase
let tenants: BareTenant[]
const refunded = { orgId: '', jobId: '' }

beforeAll(async () => {
  database = await createTestDatabase()
  const { db } = database
  const first = await createBareTenant(db)
  const second = { orgId: first.orgId, ...(await createBareKey(db, first.orgId)) }
  const third = await createBareTenant(db, { settlementMode: 'internal' })
  tenants = [first, second, third]
  refunded.orgId = first.orgId
  refunded.jobId = await run(first, { n: 2, delivered: 2, seconds: 3.5 })
  await run(first, { n: 1, delivered: 0, seconds: 0.25 })
  await run(second, { n: 3, delivered: 1, seconds: 1.001, width: 128, workerId: 'w2' })
  await run(third, { n: 4, delivered: 4, seconds: 7, workerId: 'w2' })
  // Still running: in no figure.
  await reserve(db, third)
})
afterAll(async () => {
  expect(await checkBooks(database.db)).toEqual([])
  await database.close()
})

async function run(
  who: BareTenant,
  job: {
    n: number
    delivered: number
    seconds: number
    width?: number
    workerId?: string
    isFree?: boolean
  },
): Promise<string> {
  const { db } = database
  const { n, delivered, seconds, width = 64, workerId = 'w1', isFree = false } = job
  const terms: TextTerms = { guarantee: 'refund', threshold: 1, retries: 0, expected: ['OPEN'] }
  const result = await reserve(db, who, { n, width, ...(isFree && { textTerms: terms }) })
  if (!result.ok) throw new Error(result.reason)
  const { jobId } = result
  await claimJob(db, { jobId, workerId, leaseSeconds: 60, maxFailedAttempts: 3 })
  for (let idx = 0; idx < delivered; idx++) await deliver(db, jobId, 1, idx, isFree ? MISSED : null)
  await settleJob(db, {
    jobId,
    attempt: 1,
    outcome: delivered > 0 ? 'succeeded' : 'failed',
    runInfo: { engine_seconds: seconds },
  })
  return jobId
}

function report(by: MarginGroup, gpuHourMicros = GPU_HOUR_MICROS): Promise<MarginRow[]> {
  const from = new Date(Date.now() - 3_600_000)
  const to = new Date(Date.now() + 3_600_000)
  return reportMargin(database.db, { from, to, by, gpuHourMicros })
}

const sum = (rows: MarginRow[], field: Exclude<keyof MarginRow, 'group'>) =>
  rows.reduce((total, row) => total + row[field], 0n)

describe.each(MARGIN_GROUPS)('by %s', (by) => {
  test('jobs, pictures, time, revenue and cost of the groups add up to what happened', async () => {
    // A micro-dollar a millisecond, so that no group's cost is rounded.
    const rows = await report(by, 3_600_000n)
    expect(sum(rows, 'jobs')).toBe(4n)
    expect(sum(rows, 'images')).toBe(7n)
    expect(sum(rows, 'gpuMs')).toBe(11_751n)
    expect(sum(rows, 'revenueMicros')).toBe(7n * 15_000n)
    expect(sum(rows, 'costMicros')).toBe(11_751n)
    for (const row of rows) {
      expect(row.costMicros).toBe(row.gpuMs)
      expect(row.marginMicros).toBe(row.revenueMicros - row.costMicros)
    }
  })
})

test('each group has its own figures, and its cost is exact to half a micro-dollar', async () => {
  const [first, second, third] = tenants
  const rows = await report('team')
  const of = (tenant?: BareTenant) => rows.find((row) => row.group === tenant?.teamId)
  // 3.75 s, 1.001 s and 7 s at 6.88 USD an hour: 7166.67, 1913.02 and 13377.78 micro-dollars.
  expect(of(first)).toMatchObject({ jobs: 2n, images: 2n, gpuMs: 3_750n, costMicros: 7_167n })
  expect(of(second)).toMatchObject({ jobs: 1n, images: 1n, gpuMs: 1_001n, costMicros: 1_913n })
  expect(of(third)).toMatchObject({ jobs: 1n, images: 4n, gpuMs: 7_000n, costMicros: 13_378n })
  const groups = async (by: MarginGroup) => (await report(by)).map((row) => row.group)
  expect(await groups('size')).toEqual(['128x64', '64x64'])
  expect(await groups('worker')).toEqual(['w1', 'w2'])
  expect(await groups('model')).toEqual(['glm-image'])
  expect(await groups('org')).toHaveLength(2)
})

test('a refund lowers revenue and margin, and not the cost', async () => {
  const before = await report('org')
  await refundImages(database.db, { ...refunded, indexes: [1], refundId: 'sorry' })
  const after = await report('org')
  expect(sum(after, 'revenueMicros')).toBe(sum(before, 'revenueMicros') - 15_000n)
  expect(sum(after, 'marginMicros')).toBe(sum(before, 'marginMicros') - 15_000n)
  expect(sum(after, 'costMicros')).toBe(sum(before, 'costMicros'))
})

test('a span holds what finished from its start to before its end', async () => {
  const { db } = database
  const [row] = await db.sql<{ at: Date }[]>`select min(finished_at) as at from job`
  const at = row?.at ?? new Date(0)
  const ask = (from: Date, to: Date) =>
    reportMargin(db, { from, to, by: 'org', gpuHourMicros: GPU_HOUR_MICROS })
  expect(await ask(new Date(at.getTime() - 1000), at)).toEqual([])
  expect(await ask(new Date(at.getTime() + 3_600_000), new Date(at.getTime() + 7_200_000))).toEqual(
    [],
  )
})

test('pictures that a text guarantee made free cost what they cost and bring nothing', async () => {
  const [first] = tenants
  if (!first) throw new Error('no tenant')
  const before = await report('org')
  await run(first, { n: 2, delivered: 2, seconds: 2, isFree: true })
  const after = await report('org')
  expect(sum(after, 'freeImages') - sum(before, 'freeImages')).toBe(2n)
  expect(sum(after, 'images') - sum(before, 'images')).toBe(2n)
  expect(sum(after, 'revenueMicros')).toBe(sum(before, 'revenueMicros'))
  expect(sum(after, 'costMicros')).toBeGreaterThan(sum(before, 'costMicros'))
})
