import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { FLEET_METRICS, fleetMetricsOf } from '../../db/fleet-metrics.ts'
import { claimJob } from '../../db/job-claims.ts'
import { createFleetPublisher, publishFleetDue } from '../../edge/fleet-metrics.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import { startMetricServer } from '../support/metric-server.ts'
import { createTenant } from '../support/tenant.ts'
import { until } from '../support/worker.ts'

let server: Awaited<ReturnType<typeof startMetricServer>>
let gateway: TestGateway
beforeAll(async () => {
  server = await startMetricServer()
  gateway = await startTestGateway({
    env: { METRIC_NAMESPACE: 'Glyphpress/test', CLOUDWATCH_ENDPOINT: server.url },
  })
})
afterAll(async () => {
  await gateway.close()
  await server.close()
})

const publisher = () =>
  createFleetPublisher({
    namespace: 'Glyphpress/test',
    region: 'us-east-1',
    endpoint: server.url,
    credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
  })

describe('the figures that the fleet is scaled by', () => {
  test('are what waits by size and patience, and who works', async () => {
    const { db } = gateway.database
    const tenant = await createBareTenant(db)
    const make = async (changes: Parameters<typeof reserve>[2]) => {
      const made = await reserve(db, tenant, changes)
      if (!made.ok) throw new Error(made.reason)
      return made.jobId
    }
    const running = await make({ width: 1024, height: 1024, n: 1 })
    await claimJob(db, { jobId: running, workerId: 'w1', leaseSeconds: 60, maxFailedAttempts: 3 })
    await make({ width: 1024, height: 1024, n: 2 })
    await make({ width: 2048, height: 2048, n: 1, priority: 'batch' })
    let published = {}
    const counted = await publishFleetDue({
      db,
      publishFleet: (metrics) => Promise.resolve(void (published = metrics)),
    })
    expect(counted).toBe(3)
    expect(published).toMatchObject({
      PromptGpuSeconds: 128,
      PromptJobs: 1,
      PatientGpuSeconds: 253,
      PatientJobs: 1,
      BusyWorkers: 1,
    })
  })

  test('go out in one call that names every one of them', async () => {
    const before = server.bodies.length
    await publisher()(
      fleetMetricsOf({ groups: [], oldestWaitSeconds: 0, busyWorkers: 0, isPartial: false }),
    )
    const sent = server.bodies.slice(before)
    expect(sent).toHaveLength(1)
    for (const name of [...FLEET_METRICS, 'Glyphpress/test']) expect(sent[0]).toContain(name)
  })

  test('that nobody takes are given up after five seconds, and the sweep goes on meanwhile', async () => {
    server.hang(true)
    try {
      const startedAt = performance.now()
      const failing = publishFleetDue({ db: gateway.database.db, publishFleet: publisher() })
      // The gateway's own sweep has a dead receiver of figures beside it and delivers as ever.
      const tenant = await createTenant(gateway.database.db)
      const { body } = await gateway.call('POST', '/v1/jobs', {
        key: tenant.apiKey,
        body: { prompt: 'A sign' },
      })
      await until(
        () => gateway.finisher.rung.includes(String(body.id)),
        () => 'the message of a job',
      )
      await expect(failing).rejects.toThrow()
      // Two tries of the client are one call to us.
      expect(performance.now() - startedAt).toBeLessThan(15_000)
    } finally {
      server.hang(false)
    }
  })

  test('are not even counted where no namespace is set', async () => {
    expect(await publishFleetDue({ db: gateway.database.db })).toBe(0)
  })
})
