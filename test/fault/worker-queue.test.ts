import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { expireOverdue } from '../../billing/expire.ts'
import { claimJob, giveBackJob } from '../../db/job-claims.ts'
import { markJobDeleted } from '../../db/jobs.ts'
import { restageDispatch } from '../../db/outbox.ts'
import { createFileObjects } from '../../edge/node/file-objects.ts'
import { CLAIM, openFloor, RECORD, SETTLE } from '../support/floor.ts'
import type { Floor } from '../support/floor.ts'
import type { Moment } from '../support/wire.ts'
import { until } from '../support/worker.ts'

// Several real processes start per test; a busy machine takes its time.
vi.setConfig({ testTimeout: 120_000 })

let floor: Floor
beforeAll(async () => {
  floor = await openFloor()
})
afterEach(() => floor.clear())
afterAll(() => floor.close())

describe('dead letters', () => {
  test('of a job that has not failed is sent anew, not given up', async () => {
    const jobId = await floor.newJob()
    await floor.db.sql`update outbox set done_at = now()`
    await floor.queue.bury(jobId)
    await floor.startInside()
    await floor.untilLettersRead()
    expect(await floor.jobRow(jobId)).toMatchObject({ state: 'accepted', failures: 0 })
    await floor.sendDue()
    await floor.untilState(jobId, 'succeeded')
    await floor.expectDelivered(jobId, 1)
  })

  test('of a job past its deadline expires it and releases the hold', async () => {
    const jobId = await floor.newJob()
    await floor.db.sql`update job set deadline_at = now() - interval '1 s' where id = ${jobId}`
    await floor.queue.bury(jobId)
    await floor.startInside()
    await floor.untilState(jobId, 'expired')
    expect(await floor.jobRow(jobId)).toMatchObject({ errorCode: 'deadline_exceeded' })
    await floor.expectNothingCharged(jobId)
  })

  test('of a job that has failed too often fails it and releases the hold', async () => {
    const jobId = await floor.newJob()
    await floor.db.sql`update job set failed_attempts = 3 where id = ${jobId}`
    await floor.queue.bury(jobId)
    await floor.startInside()
    await floor.untilState(jobId, 'failed')
    expect(await floor.jobRow(jobId)).toMatchObject({ errorCode: 'worker_failed' })
    await floor.expectNothingCharged(jobId)
  })

  test('that no gateway has written are removed', async () => {
    await floor.queue.sendText('not json')
    await floor.queue.bury('job_unknown')
    await floor.startInside()
    await floor.untilQueueEmpty()
    await floor.untilLettersRead()
  })
})

describe('a queue that is not to be trusted', () => {
  test('five messages for one job and two workers make it once', async () => {
    const jobId = await floor.newJob({ n: 3 })
    await Promise.all([floor.startInside(), floor.startInside()])
    await Promise.all(Array.from({ length: 5 }, () => floor.queue.send(jobId)))
    await floor.untilState(jobId, 'succeeded')
    await floor.expectDelivered(jobId, 3)
    await floor.queue.send(jobId)
    await until(
      () => floor.queue.counts().ready === 0,
      () => 'the late message to be received',
    )
    expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 1, failures: 0 })
    await floor.expectDelivered(jobId, 3)
  })

  test('a queue that forgot everything is filled again from the database', async () => {
    const jobIds = [await floor.newJob(), await floor.newJob(), await floor.newJob()]
    await floor.sendDue()
    floor.queue.lose()
    expect(await restageDispatch(floor.db, { olderThanSeconds: 0, limit: 100 })).toBe(3)
    await floor.sendDue()
    const worker = await floor.startInside()
    for (const jobId of jobIds) {
      await floor.untilState(jobId, 'succeeded', worker)
      await floor.expectDelivered(jobId, 1)
    }
  })
})

test('a job that another hands back at the moment of a claim is drawn, not failed', async () => {
  const jobId = await floor.newJob()
  const other = { jobId, workerId: 'other', leaseSeconds: 60, maxFailedAttempts: 3 }
  await claimJob(floor.db, other)
  const worker = await floor.startInside({ isWired: true })
  const trap = floor.wire.trap({ when: 'after', sql: CLAIM })
  await floor.queue.send(jobId)
  await trap.reached
  await giveBackJob(floor.db, { jobId, attempt: 1, countFailure: false })
  trap.release()
  await until(
    () => worker.log.some(({ outcome }) => outcome === 'busy'),
    () => `the claim to end:\n${worker.output()}`,
  )
  await floor.queue.expireVisibility()
  await floor.untilState(jobId, 'succeeded', worker)
  expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 2, failures: 0 })
  await floor.expectDelivered(jobId, 1)
})

describe('a worker that was taken for dead', () => {
  test.each([
    ['notes nothing', { when: 'before', sql: RECORD }],
    ['settles nothing', { when: 'before', sql: SETTLE }],
  ] satisfies [string, Moment][])(
    '%s when it wakes up after another has finished its job',
    async (_name, moment) => {
      const jobId = await floor.newJob({ n: 2 })
      const zombie = await floor.startTrapped()
      const trap = floor.wire.trap(moment)
      await floor.queue.send(jobId)
      await trap.reached
      zombie.kill('SIGSTOP')
      await floor.letLeaseRunOut(jobId)
      const heir = await floor.startInside()
      await floor.untilState(jobId, 'succeeded', heir)
      const outputs = await floor.outputsOf(jobId)
      zombie.kill('SIGCONT')
      trap.release()
      await until(
        () =>
          zombie.log.some(({ event, outcome }) => event === 'job_end' && outcome === 'superseded'),
        () => `the zombie to give up:\n${zombie.output()}`,
      )
      expect(await floor.outputsOf(jobId)).toEqual(outputs)
      // What it had stored and could not note is gone, what was noted is there.
      const keys = outputs.map(({ objectKey }) => objectKey)
      expect(await floor.objectsOf(jobId)).toEqual(keys)
      expect(await floor.jobRow(jobId)).toMatchObject({ state: 'succeeded', attempt: 2 })
      await floor.expectDelivered(jobId, 2)
    },
  )

  test('leaves no object when it wakes up after its job was finished and deleted', async () => {
    const jobId = await floor.newJob()
    const zombie = await floor.startInside({ isWired: true })
    const trap = floor.wire.trap({ when: 'before', sql: RECORD })
    await floor.queue.send(jobId)
    await trap.reached
    expect(await floor.objectsOf(jobId)).toHaveLength(1)
    await floor.letLeaseRunOut(jobId)
    const heir = await floor.startInside()
    await floor.untilState(jobId, 'succeeded', heir)
    const [owner] = await floor.db.sql<{ orgId: string }[]>`
      select org_id as "orgId" from job where id = ${jobId}`
    await markJobDeleted(floor.db, { orgId: owner?.orgId ?? '', jobId })
    await createFileObjects(floor.objectDir).remove(jobId)
    // Its picture arrives once more, as an upload does that was on its way.
    await mkdir(join(floor.objectDir, 'images', jobId), { recursive: true })
    const [late] = await floor.db.sql<{ sha256: string }[]>`
      select sha256 from job_output where job_id = ${jobId}`
    const key = `images/${jobId}/0-1-${late?.sha256}.png`
    await writeFile(join(floor.objectDir, key), 'late')
    trap.release()
    await until(
      () => zombie.log.some(({ outcome }) => outcome === 'superseded'),
      () => `the zombie to give up:\n${zombie.output()}`,
    )
    expect(await floor.objectsOf(jobId)).toEqual([])
  })

  test('notes nothing for a job that has expired meanwhile, and nothing is charged', async () => {
    const jobId = await floor.newJob({ n: 2 })
    const zombie = await floor.startTrapped()
    const trap = floor.wire.trap({ when: 'before', sql: RECORD })
    await floor.queue.send(jobId)
    await trap.reached
    zombie.kill('SIGSTOP')
    await floor.db.sql`
      update job set lease_until = now(), deadline_at = now() - interval '1 s' where id = ${jobId}`
    expect(await expireOverdue(floor.db, { limit: 10 })).toBe(1)
    zombie.kill('SIGCONT')
    trap.release()
    await until(
      () => zombie.log.some(({ outcome }) => outcome === 'superseded'),
      () => `the zombie to give up:\n${zombie.output()}`,
    )
    expect(await floor.outputsOf(jobId)).toEqual([])
    expect(await floor.jobRow(jobId)).toMatchObject({ state: 'expired' })
    await floor.expectNothingCharged(jobId)
  })

  test('takes no harm when its connections are cut in the middle of a job', async () => {
    const jobId = await floor.newJob({ n: 4, width: 256, height: 256 })
    const worker = await floor.startTrapped()
    const trap = floor.wire.trap({ when: 'after', sql: RECORD })
    await floor.queue.send(jobId)
    await trap.reached
    floor.wire.cut()
    trap.release()
    // Whether the worker repeats the statement or gives the attempt up, the job comes to its end.
    for (
      let minute = 0;
      minute < 3 && (await floor.jobRow(jobId)).state !== 'succeeded';
      minute++
    ) {
      await until(
        () => worker.log.some(({ event }) => event === 'job_end' || event === 'job_interrupted'),
        () => `the attempt to end:\n${worker.output()}`,
      )
      if ((await floor.jobRow(jobId)).state !== 'succeeded') await floor.letLeaseRunOut(jobId)
      await until(
        async () => (await floor.jobRow(jobId)).state !== 'queued',
        () => `the next attempt:\n${worker.output()}`,
      )
      await floor.untilState(jobId, 'succeeded', worker)
    }
    await floor.expectDelivered(jobId, 4)
  })
})
