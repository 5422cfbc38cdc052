import { afterAll, beforeAll, expect, test } from 'vitest'
import { checkBooks } from '../support/books.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { IMAGE_MICROS } from '../support/jobs.ts'
import { createTenant } from '../support/tenant.ts'

let gateway: TestGateway
beforeAll(async () => {
  gateway = await startTestGateway()
})
afterAll(() => gateway.close())

/** One image each, in every dialect that answers at once. */
const ORDERS = [
  { path: '/v1/jobs', body: { prompt: 'A sign' } },
  { path: '/paas/v4/async/images/generations', body: { model: 'glm-image', prompt: 'A sign' } },
  { path: '/api/paas/v4/async/images/generations', body: { model: 'glm-image', prompt: 'A sign' } },
]

test.each([
  ['credit of the org', { org: { creditMicros: 7n * IMAGE_MICROS + 14_999n } }],
  ['month of the team', { team: { monthLimitMicros: 7n * IMAGE_MICROS } }],
  ['month of the key', { key: { monthLimitMicros: 7n * IMAGE_MICROS } }],
])('of sixty calls at once exactly as many are taken as the %s allows', async (_, limits) => {
  gateway.finisher.mode = 'hold'
  const { apiKey } = await createTenant(gateway.database.db, limits)
  const answers = await Promise.all(
    Array.from({ length: 60 }, (__, index) => {
      const { path, body } = ORDERS[index % ORDERS.length] ?? ORDERS[0] ?? { path: '', body: {} }
      return gateway.call('POST', path, { key: apiKey, body })
    }),
  )
  const taken = answers.filter(({ status }) => status < 300)
  expect(taken).toHaveLength(7)
  for (const { status, headers, body } of answers.filter((answer) => !taken.includes(answer))) {
    expect([402, 403, 429]).toContain(status)
    expect(['insufficient_credit', 'budget_exceeded']).toContain(body.error.type)
    expect(headers.get('x-should-retry')).toBe('false')
  }
  expect(await checkBooks(gateway.database.db)).toEqual([])

  // What failed was never paid, so the same money buys again.
  await Promise.all(taken.map(({ body }) => gateway.finisher.finish(body.id, 'fail')))
  const again = await gateway.call('POST', '/v1/jobs', { key: apiKey, body: { prompt: 'B', n: 7 } })
  expect(again.status).toBe(201)
  await gateway.finisher.finish(again.body.id)
  const more = await gateway.call('POST', '/v1/jobs', { key: apiKey, body: { prompt: 'C' } })
  expect([402, 403]).toContain(more.status)
  expect(await checkBooks(gateway.database.db)).toEqual([])
})
