import { setTimeout as wait } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { restageDispatch } from '../../db/outbox.ts'
import { createRandom } from '../../infra/fleet/random.ts'
import { openFloor } from '../support/floor.ts'
import type { Floor } from '../support/floor.ts'
import { until } from '../support/worker.ts'
import type { TestProcess } from '../support/worker.ts'

const JOBS = 8
const KILLS = 5
/** Often, so that the test is short; the product sweeps every few seconds. */
const SWEEP_MS = 200
/** Another one may be tried by hand; what it finds is then made a test of its own. */
const SEED = Number(process.env.CHAOS_SEED ?? 20261124)

let floor: Floor
/** Workers of which nothing will be heard for a minute. */
const silent: string[] = []
beforeAll(async () => {
  floor = await openFloor()
})
afterEach(() => floor.clear())
afterAll(() => floor.close())

/** Keeps one worker at work and kills it, or freezes it for a while, at random times. */
async function runSlot(
  random: () => number,
  slot: number,
  isDone: () => boolean,
  kills: { left: number },
): Promise<void> {
  for (let life = 0; !isDone(); life++) {
    const workerId = `worker-${slot}-${life}`
    const worker = await floor.startWorker({ WORKER_ID: workerId })
    const isLastLife = kills.left <= 0
    kills.left -= 1
    const endsAt = performance.now() + 200 + random() * 1_200
    while (!isDone() && (isLastLife || performance.now() < endsAt)) await wait(20)
    if (isLastLife) {
      worker.kill('SIGKILL')
      return
    }
    const isFrozen = random() < 0.3
    worker.kill(isFrozen ? 'SIGSTOP' : 'SIGKILL')
    silent.push(workerId)
    if (isFrozen) await thawAndEnd(worker)
  }
}

/** It goes on where it stood, with a claim that is another's by now. */
async function thawAndEnd(worker: TestProcess): Promise<void> {
  await wait(400)
  worker.kill('SIGCONT')
  await wait(400)
  worker.kill('SIGKILL')
}

test(`workers killed and frozen at random lose no job and charge none twice (seed ${SEED})`, async () => {
  const random = createRandom(SEED, 'chaos').next
  const counts = Array.from({ length: JOBS }, () => 1 + Math.floor(random() * 3))
  const jobIds: string[] = []
  for (const n of counts) jobIds.push(await floor.newJob({ n, width: 256, height: 256 }))
  let isDone = false
  const kills = { left: KILLS }
  const slots = [1, 2].map((slot) => runSlot(random, slot, () => isDone, kills))
  await until(
    async () => {
      await wait(SWEEP_MS)
      // The minute passes. A statement of a dead worker may still have arrived after its death.
      await floor.db.sql`
        update job set lease_until = now() where worker_id = any(${silent}) and state = 'running'`
      // The sweep: jobs whose message a dead worker held get another one.
      await restageDispatch(floor.db, { olderThanSeconds: 1, limit: 100 })
      await floor.sendDue()
      const states = await Promise.all(jobIds.map((jobId) => floor.jobRow(jobId)))
      return states.every(({ state }) => state === 'succeeded' || state === 'failed')
    },
    () => 'all jobs to end',
    120_000,
  )
  isDone = true
  await Promise.all(slots)
  expect(kills.left).toBeLessThanOrEqual(0)
  for (const [at, jobId] of jobIds.entries()) {
    const { state, failures, errorCode } = await floor.jobRow(jobId)
    const delivered = (await floor.outputsOf(jobId)).length
    await floor.expectDelivered(jobId, delivered)
    // A job may meet three crashes; then it keeps what it has, and says so.
    if (errorCode === null) expect([state, delivered]).toEqual(['succeeded', counts[at]])
    else expect({ errorCode, failures }).toEqual({ errorCode: 'worker_failed', failures: 3 })
  }
}, 150_000)
