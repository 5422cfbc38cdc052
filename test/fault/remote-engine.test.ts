import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { MAX_RECEIVES } from '../../gpu-worker/settings.ts'
import { openFloor } from '../support/floor.ts'
import type { Floor } from '../support/floor.ts'
import { sendJson, startImageServer } from '../support/image-server.ts'
import type { ImageServer } from '../support/image-server.ts'
import { until } from '../support/worker.ts'

vi.setConfig({ testTimeout: 120_000 })

const DRAW = '/v1/images/generations'
const SIZE = { width: 1024, height: 1024 }

let floor: Floor
let server: ImageServer
beforeAll(async () => {
  floor = await openFloor()
  server = await startImageServer()
})
afterEach(() => floor.clear())
afterAll(async () => {
  await floor.close()
  await server.close()
})

const startWorker = () => floor.startWorker({ MODEL_DIR: '', ENGINE_URL: server.url })

test('a job is drawn by a server elsewhere, stored and charged as by an engine of ours', async () => {
  const worker = await startWorker()
  const jobId = await floor.newJob({ ...SIZE, n: 2, seed: 9 })
  await floor.queue.send(jobId)
  await floor.untilState(jobId, 'succeeded', worker)
  await floor.expectDelivered(jobId, 2)
  expect(server.asked.map(({ seed }) => seed)).toEqual([9, 10])
  expect(worker.log).toContainEqual(expect.objectContaining({ event: 'ready', model: 'glm-image' }))
})

test('a server that is away costs the job none of its tries, and draws it when it is back', async () => {
  let refusals = 0
  server.instead.set(DRAW, (response) => {
    refusals += 1
    if (refusals > MAX_RECEIVES) server.instead.delete(DRAW)
    sendJson(response, 503, { detail: 'loading' })
  })
  const worker = await startWorker()
  const jobId = await floor.newJob(SIZE)
  await floor.queue.send(jobId)
  // Its message has gone around too often; the sweep sends another one.
  await until(
    () => worker.log.some(({ event }) => event === 'dead_letter'),
    () => worker.output(),
  )
  await floor.sendDue()
  await floor.untilState(jobId, 'succeeded', worker)
  await floor.expectDelivered(jobId, 1)
  expect(refusals).toBe(MAX_RECEIVES + 1)
  expect(await floor.jobRow(jobId)).toMatchObject({ failures: 0 })
})

test('a request that the server finds wrong ends the job at once, uncharged', async () => {
  server.instead.set(DRAW, (response) => sendJson(response, 400, { detail: 'blocked words' }))
  const worker = await startWorker()
  const jobId = await floor.newJob(SIZE)
  await floor.queue.send(jobId)
  await floor.untilState(jobId, 'failed', worker)
  await floor.expectNothingCharged(jobId)
  expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 1, errorCode: 'invalid_request' })
})
