import { afterAll, beforeAll, expect, test } from 'vitest'
import { settleJob } from '../../billing/settle.ts'
import { listUsage, sumUsage } from '../../billing/usage.ts'
import { claimJob } from '../../db/job-claims.ts'
import { listJobs } from '../../db/jobs.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { IMAGE_MICROS, createBareKey, createBareTenant, deliver, reserve } from '../support/jobs.ts'
import type { BareTenant } from '../support/jobs.ts'

let database: TestDatabase
let tenant: BareTenant
let other: BareTenant
const SPAN = { from: new Date(0), to: new Date('2100-01-01T00:00:00Z') }

async function buy(who: BareTenant, n: number): Promise<string> {
  const { db } = database
  const result = await reserve(db, who, { n })
  if (!result.ok) throw new Error(result.reason)
  const { jobId } = result
  await claimJob(db, { jobId, workerId: 'w', leaseSeconds: 60, maxFailedAttempts: 3 })
  for (let idx = 0; idx < n; idx++) await deliver(db, jobId, 1, idx)
  await settleJob(db, { jobId, attempt: 1, outcome: 'succeeded' })
  return jobId
}

beforeAll(async () => {
  database = await createTestDatabase()
  const { db } = database
  tenant = await createBareTenant(db)
  other = { orgId: tenant.orgId, ...(await createBareKey(db, tenant.orgId)) }
  await buy(tenant, 3)
  await buy(other, 2)
  await buy(tenant, 1)
  await buy(await createBareTenant(db), 4)
})
afterAll(() => database.close())

test('pages of any size give every line of the org once, in order', async () => {
  const { db } = database
  const span = { orgId: tenant.orgId, ...SPAN }
  const whole = await listUsage(db, span, { limit: 100 })
  expect(whole).toHaveLength(6)
  expect(whole[0]).toMatchObject({ listMicros: IMAGE_MICROS, netMicros: IMAGE_MICROS, idx: 0 })
  for (const limit of [1, 2, 5]) {
    const pages: typeof whole = []
    let page = await listUsage(db, span, { limit })
    while (page.length > 0) {
      pages.push(...page)
      page = await listUsage(db, span, { limit, after: page.at(-1)?.id ?? '' })
    }
    expect(pages).toEqual(whole)
  }
})

test('sums by team, key, SKU and day all add up to what was spent', async () => {
  const { db } = database
  const span = { orgId: tenant.orgId, ...SPAN }
  for (const by of ['team', 'key', 'sku', 'day'] as const) {
    const sums = await sumUsage(db, span, by)
    expect(sums.reduce((total, sum) => total + sum.netMicros, 0n)).toBe(6n * IMAGE_MICROS)
  }
  const teams = await sumUsage(db, span, 'team')
  expect(new Map(teams.map((sum) => [sum.group, sum.images]))).toEqual(
    new Map([
      [tenant.teamId, 4n],
      [other.teamId, 2n],
    ]),
  )
  expect(await sumUsage(db, { ...span, to: new Date(1) }, 'team')).toEqual([])
})

test('a page of jobs comes with outputs and money, newest first, and never with those of another org', async () => {
  const { db } = database
  const found = await listJobs(db, { orgId: tenant.orgId, limit: 10 })
  expect(found.map(({ outputs }) => outputs.map(({ idx }) => idx))).toEqual([
    [0],
    [0, 1],
    [0, 1, 2],
  ])
  const images = found.map(({ reservation }) => reservation.capturedMicros / IMAGE_MICROS)
  expect(images).toEqual([1n, 2n, 3n])
  expect(await listJobs(db, { orgId: 'org_other', limit: 10 })).toEqual([])
})
