import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { startEngine } from '../../gpu-worker/engine.ts'
import type { Engine } from '../../gpu-worker/engine.ts'
import { openFloor, wrapEngine } from '../support/floor.ts'
import type { Floor, InsideWorker } from '../support/floor.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import { MODEL_DIR, until } from '../support/worker.ts'

// One tenant's job does harm to the engine each time that it is drawn, between the jobs of others.

vi.setConfig({ testTimeout: 120_000 })

const POISON_SEED = 666
const FAST = { restSeconds: [0.01], retrySeconds: [0], pollSeconds: 1, progressIntervalMs: 20 }

let floor: Floor
beforeAll(async () => {
  floor = await openFloor()
})
afterEach(() => floor.clear())
afterAll(() => floor.close())

/** A real engine process, to which something happens as soon as it works on the poisonous job. */
async function openVictim(harm: (pid: number) => void): Promise<Engine & { harmed: () => number }> {
  // A process that is stopped answers nothing; so long it has to let go of what was canceled.
  const engine = await startEngine({ modelDir: MODEL_DIR, threads: 1, cancelTimeoutMs: 300 })
  let harmed = 0
  const generate: Engine['generate'] = (request, hooks) => {
    let isHarmed = request.seed !== POISON_SEED
    return engine.generate(request, {
      ...hooks,
      onProgress(progress) {
        hooks?.onProgress?.(progress)
        if (isHarmed || engine.pid === undefined) return
        isHarmed = true
        harmed += 1
        harm(engine.pid)
      },
    })
  }
  return Object.assign(wrapEngine(engine, generate), { harmed: () => harmed })
}

/** A job of a tenant of its own, which wants to hear of its end. */
async function newJob(changes: Parameters<typeof reserve>[2] = {}): Promise<string> {
  const tenant = await createBareTenant(floor.db)
  const webhookUrl = 'https://caller.example/hook'
  const made = await reserve(floor.db, tenant, { webhookUrl, ...changes })
  if (!made.ok) throw new Error(made.reason)
  return made.jobId
}

/** Rings for them in this order. */
async function sendAll(jobIds: readonly string[]): Promise<void> {
  for (const jobId of jobIds) await floor.queue.send(jobId)
}

/** Sends what the dead letters' reader stages meanwhile, as the gateway's sweep does. */
const untilEnd = (jobId: string, state: string, worker: InsideWorker) =>
  until(
    async () => {
      await floor.sendDue()
      return (await floor.jobRow(jobId)).state === state
    },
    () => `${jobId} to be ${state}:\n${worker.output()}`,
  )

/** What its caller hears, by the job and by its webhook. */
async function toldOf(jobId: string) {
  const [row] = await floor.db.sql<{ error: string | null; events: string[]; held: string }[]>`
    select error_message as error,
           array(select e.type from webhook_event e join webhook_delivery d on d.event_id = e.id
                  where e.subject_id = job.id) as events,
           (select state from reservation r where r.job_id = job.id) as held
      from job where id = ${jobId}`
  return row
}

async function expectUnharmed(jobIds: readonly string[], worker: InsideWorker): Promise<void> {
  for (const jobId of jobIds) {
    await untilEnd(jobId, 'succeeded', worker)
    expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 1, failures: 0 })
    await floor.expectDelivered(jobId, 1)
  }
}

describe('a job that kills the engine process each time it is drawn', () => {
  test('ends after three, uncharged and told of; its worker lives, and no other job loses a try', async () => {
    const engine = await openVictim((pid) => process.kill(pid, 'SIGKILL'))
    const worker = await floor.startInside({ engine, times: FAST })
    const poison = await newJob({ seed: POISON_SEED, n: 2 })
    const refused = await newJob({ width: 48 })
    const others = [await newJob(), await newJob(), await newJob(), await newJob()]
    await sendAll([...others.slice(0, 2), poison, refused, ...others.slice(2)])
    await untilEnd(poison, 'failed', worker)
    expect(await floor.jobRow(poison)).toMatchObject({ attempt: 3, errorCode: 'worker_failed' })
    expect(engine.harmed()).toBe(3)
    expect(await toldOf(poison)).toEqual({
      error: 'The image could not be made in 3 attempts.',
      events: ['job.failed'],
      held: 'released',
    })
    await floor.expectNothingCharged(poison)
    // The request that the model refuses is the caller's own error and has ended at its first try.
    await untilEnd(refused, 'failed', worker)
    expect(await floor.jobRow(refused)).toMatchObject({ attempt: 1, errorCode: 'invalid_request' })
    expect(await toldOf(refused)).toMatchObject({ events: ['job.failed'], held: 'released' })
    await floor.expectNothingCharged(refused)
    await expectUnharmed(others, worker)
    const after = await newJob()
    await sendAll([after])
    await expectUnharmed([after], worker)
    await floor.untilQueueEmpty()
  })
})

describe('a job under which the engine process hangs', () => {
  const hang = (pid: number) => process.kill(pid, 'SIGSTOP')

  test('holds its slot until its attempt is over and no longer, which counts as one of the three', async () => {
    const engine = await openVictim(hang)
    // Enough for another process to start and draw, on a busy machine too.
    const times = { ...FAST, attemptSeconds: 6, beatSeconds: 0.2 }
    const worker = await floor.startInside({ engine, times })
    const poison = await newJob({ seed: POISON_SEED })
    const others = [await newJob(), await newJob(), await newJob()]
    await floor.db.sql`update job set attempt = 2, failed_attempts = 2 where id = ${poison}`
    await sendAll([poison, ...others])
    await expectUnharmed(others, worker)
    await untilEnd(poison, 'failed', worker)
    expect(await floor.jobRow(poison)).toMatchObject({ attempt: 3, errorCode: 'worker_failed' })
    expect(await toldOf(poison)).toMatchObject({ events: ['job.failed'], held: 'released' })
    await floor.expectNothingCharged(poison)
    const hung = worker.log.filter(({ event }) => event === 'attempt_failed')
    expect(hung).toMatchObject([{ code: 'attempt_timeout' }])
    expect(engine.harmed()).toBe(1)
    await floor.untilQueueEmpty()
  })

  test('gives its slot to others when its own deadline comes first', async () => {
    const engine = await openVictim(hang)
    const times = { ...FAST, beatSeconds: 0.2, leaseSeconds: 5 }
    const worker = await floor.startInside({ engine, times })
    const poison = await newJob({ seed: POISON_SEED })
    const other = await newJob()
    await sendAll([poison])
    await until(
      () => engine.harmed() === 1,
      () => `the engine to hang:\n${worker.output()}`,
    )
    await sendAll([other])
    await floor.db.sql`update job set deadline_at = now() where id = ${poison}`
    await untilEnd(poison, 'expired', worker)
    expect(await toldOf(poison)).toMatchObject({ events: ['job.expired'], held: 'expired' })
    await floor.expectNothingCharged(poison)
    await expectUnharmed([other], worker)
    await floor.untilQueueEmpty()
  })
})
