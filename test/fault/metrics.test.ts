import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { claimJob } from '../../db/job-claims.ts'
import { readServiceState } from '../../db/service-state.ts'
import { forgetWorker, noteWorker, pruneWorkers } from '../../db/workers.ts'
import { createPrometheus } from '../../edge/node/prometheus.ts'
import { serveMetrics } from '../../edge/node/metrics-server.ts'
import { findFreePort } from '../../infra/local/postgres.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { startTestGateway } from '../support/gateway.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import { createTenant } from '../support/tenant.ts'

let database: TestDatabase
beforeAll(async () => {
  database = await createTestDatabase()
})
afterAll(() => database.close())

/** Value of a series by its name and labels, as Prometheus would read it; undefined where it is absent. */
function valueOf(text: string, series: string): number | undefined {
  const line = text.split('\n').find((each) => each.startsWith(`${series} `))
  return line === undefined ? undefined : Number(line.slice(series.length + 1))
}

describe('the state of the service', () => {
  test('of empty books is nothing', async () => {
    const empty = await createTestDatabase()
    const state = await readServiceState(empty.db)
    await empty.close()
    expect(state).toEqual({
      jobs: {
        waiting: { standard: 0, batch: 0 },
        running: 0,
        overdue: 0,
        oldestWaitSeconds: null,
        oldestUnsentSeconds: null,
        medianWaitSeconds: null,
        lastBegunAt: null,
        lastSucceededAt: null,
      },
      workers: { seen: 0, slots: 0, busy: 0 },
      outbox: { unsent: 0 },
      webhooks: { due: 0, oldestDueSeconds: null, lastDeliveredAt: null },
      ledger: { unfoldedSeconds: null },
      stripe: {
        unsentReports: 0,
        oldestUnsentSeconds: null,
        unsealedSeconds: null,
        unappliedEvents: 0,
        oldestUnappliedSeconds: null,
        lastAcceptedAt: null,
      },
    })
  })

  test('counts every job once, by who has it', async () => {
    const { db } = database
    const tenant = await createBareTenant(db)
    const accepted = async (changes = {}) => {
      const result = await reserve(db, tenant, changes)
      if (!result.ok) throw new Error(result.reason)
      return result.jobId
    }
    const claim = (jobId: string, leaseSeconds: number) =>
      claimJob(db, { jobId, workerId: 'w', leaseSeconds, maxFailedAttempts: 3 })
    const old = await accepted()
    await accepted({ priority: 'batch' })
    const running = await accepted()
    await claim(running, 60)
    const crashed = await accepted()
    await claim(crashed, 0)
    const overdue = await accepted()
    await db.sql`update job set created_at = now() - interval '100 s' where id = ${old}`
    await db.sql`update job set created_at = now() - interval '40 s', started_at = now() where id = ${running}`
    await db.sql`update job set deadline_at = now() - interval '1 s' where id = ${overdue}`
    const { jobs, outbox, ledger } = await readServiceState(db)
    expect(jobs).toMatchObject({
      waiting: { standard: 2, batch: 1 },
      running: 1,
      overdue: 1,
    })
    expect(jobs.oldestWaitSeconds).toBeCloseTo(100, -1)
    expect(jobs.oldestUnsentSeconds).toBeCloseTo(100, -1)
    expect(jobs.medianWaitSeconds).toBeGreaterThan(0)
    expect(outbox.unsent).toBe(5)
    expect(ledger.unfoldedSeconds).not.toBeNull()
  })

  test('knows a worker for a minute after its last word, and not after it left', async () => {
    const { db } = database
    await noteWorker(db, { id: 'a', slots: 4, busy: 1 })
    await noteWorker(db, { id: 'a', slots: 4, busy: 3 })
    await noteWorker(db, { id: 'b', slots: 1, busy: 0 })
    expect((await readServiceState(db)).workers).toEqual({ seen: 2, slots: 5, busy: 3 })
    await db.sql`update worker set seen_at = now() - interval '61 s' where id = 'a'`
    expect((await readServiceState(db)).workers).toEqual({ seen: 1, slots: 1, busy: 0 })
    await forgetWorker(db, 'b')
    expect((await readServiceState(db)).workers.seen).toBe(0)
    expect(await pruneWorkers(db, { olderThanSeconds: 60 })).toBe(1)
  })
})

describe('the figures', () => {
  test('are shown on a port of their own: what calls and refusals there were, and of whom nothing', async () => {
    const port = await findFreePort()
    const gateway = await startTestGateway({ env: { METRICS_PORT: String(port) } })
    try {
      const tenant = await createTenant(gateway.database.db, { org: { maxInflight: 1 } })
      gateway.finisher.mode = 'hold'
      const order = (key: string) =>
        gateway.call('POST', '/v1/jobs', { key, body: { prompt: 'A sign' } })
      const { body } = await order(tenant.apiKey)
      await order(tenant.apiKey)
      await order('wrong')
      await gateway.call('GET', `/v1/jobs/${body.id}`, { key: tenant.apiKey })
      await fetch(`${gateway.url}/no/such/path`)
      await expect.poll(() => gateway.finisher.rung).toEqual([body.id])
      const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()
      const calls = (method: string, route: string, status: number) =>
        valueOf(
          text,
          `glyphpress_http_requests_total{method="${method}",route="${route}",status="${status}"}`,
        )
      expect(calls('POST', '/v1/jobs', 201)).toBe(1)
      expect(calls('POST', '/v1/jobs', 429)).toBe(1)
      expect(calls('POST', '/v1/jobs', 401)).toBe(1)
      expect(calls('GET', '/v1/jobs/{job_id}', 200)).toBe(1)
      expect(calls('GET', 'none', 404)).toBe(1)
      const refused = (reason: string, scope: string) =>
        valueOf(text, `glyphpress_refusals_total{reason="${reason}",scope="${scope}"}`)
      expect(refused('too_many_inflight', 'org')).toBe(1)
      expect(refused('key_invalid', '')).toBe(1)
      const reserved = (outcome: string) =>
        valueOf(text, `glyphpress_reservation_duration_seconds_count{outcome="${outcome}"}`)
      expect([reserved('accepted'), reserved('too_many_inflight')]).toEqual([1, 1])
      expect(valueOf(text, 'glyphpress_dispatches_total{outcome="sent"}')).toBe(1)
      expect(valueOf(text, 'glyphpress_database_up')).toBe(1)
      expect(valueOf(text, 'glyphpress_jobs_waiting{priority="standard"}')).toBe(1)
      expect(text).not.toMatch(/(org|key|team|job|req)_[0-9a-hjkmnp-tv-z]{26}/)
      // Customers do not see them.
      expect((await fetch(`${gateway.url}/metrics`)).status).toBe(404)
    } finally {
      await gateway.close()
    }
  })

  test('of the books are absent, and no old ones shown, while the database does not answer', async () => {
    const pool = openDatabase(`postgres://nobody@127.0.0.1:${await findFreePort()}/none`)
    const { registry } = createPrometheus(pool, { isSweeping: true })
    const server = await serveMetrics(registry, { host: '127.0.0.1', port: 0 })
    const text = await (await fetch(server.url)).text()
    expect(valueOf(text, 'glyphpress_database_up')).toBe(0)
    expect(text).toContain('# HELP glyphpress_jobs_running')
    expect(valueOf(text, 'glyphpress_jobs_running')).toBeUndefined()
    expect(valueOf(text, 'glyphpress_jobs_waiting{priority="standard"}')).toBeUndefined()
    server.close()
    await closeDatabase(pool)
  })

  test('a port that is taken costs the figures and not the gateway', async () => {
    const { registry } = createPrometheus(openDatabase(database.url), { isSweeping: false })
    const taken = await serveMetrics(registry, { host: '127.0.0.1', port: 0 })
    const gateway = await startTestGateway({ env: { METRICS_PORT: new URL(taken.url).port } })
    try {
      expect((await gateway.call('GET', '/v1/status')).status).toBe(200)
      expect(gateway.logged).toContainEqual(
        expect.objectContaining({ level: 'error', event: 'metrics_unavailable' }),
      )
    } finally {
      await gateway.close()
      taken.close()
    }
  })
})
