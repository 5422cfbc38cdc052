import { afterAll, beforeAll, expect, test } from 'vitest'
import { NO_OBJECTS, createTestApp } from '../support/app.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createTenant } from '../support/tenant.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.close())

test.each([
  '/v1/jobs',
  '/v1/models',
  '/v1/models/glm-image',
  '/api/paas/v4/models',
  '/paas/v4/models/glm-image',
  '/v1/balance',
  '/v1/webhook-endpoints',
  '/v1/webhook-deliveries',
  '/v1/webhook-secret',
])('one call of %s counts once against the rate of its key', async (path) => {
  const { apiKey } = await createTenant(database.db)
  const app = createTestApp(database.db, {
    objects: NO_OBJECTS,
  })
  const response = await app.call('GET', path, { apiKey })
  expect(response.status).toBe(200)
  const limit = Number(/q=(\d+)/.exec(response.headers.get('ratelimit-policy') ?? '')?.[1])
  expect(response.headers.get('ratelimit')).toContain(`r=${limit - 1};`)
})
