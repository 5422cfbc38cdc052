import { createHash } from 'node:crypto'
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { createId } from '../../db/ids.ts'
import { inputKeyOf } from '../../db/input-images.ts'
import type { InputImage } from '../../db/input-images.ts'
import { createFileObjects } from '../../edge/node/file-objects.ts'
import { createFileStore } from '../../gpu-worker/store.ts'
import type { PictureStore } from '../../gpu-worker/store.ts'
import { openFloor, wrapEngine } from '../support/floor.ts'
import type { Floor, InsideWorker } from '../support/floor.ts'
import { drawPicture } from '../support/pictures.ts'
import { until } from '../support/worker.ts'

vi.setConfig({ testTimeout: 120_000 })

const SIZE = { width: 64, height: 64 }
const FAST = { restSeconds: [0.01], retrySeconds: [0], pollSeconds: 1 }

let floor: Floor
let pictures: Uint8Array[]
beforeAll(async () => {
  floor = await openFloor()
  pictures = [await drawPicture(1, SIZE), await drawPicture(2, SIZE)]
})
afterEach(() => floor.clear())
afterAll(() => floor.close())

function describeInput(bytes: Uint8Array): InputImage {
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  return { sha256, format: 'png', sizeBytes: bytes.length, ...SIZE }
}

/** A job whose inputs are stored as the gateway does it. */
async function newEdit(inputs = pictures): Promise<string> {
  const id = createId('job')
  const inputImages = inputs.map(describeInput)
  const objects = createFileObjects(floor.objectDir)
  for (const [idx, bytes] of inputs.entries()) {
    await objects.putInput({ jobId: id, idx, image: describeInput(bytes), bytes })
  }
  return floor.newJob({ id, inputImages, steps: 1 })
}

const inputsLeft = (jobId: string) =>
  readdir(join(floor.objectDir, 'inputs', jobId)).catch(() => [])
const fileOf = (jobId: string, idx: number) =>
  join(floor.objectDir, inputKeyOf(jobId, idx, describeInput(pictures[idx]!)))

/** The shared engine, which notes what it is asked for. */
async function watchedEngine(asked: (readonly Uint8Array[])[]) {
  const engine = await floor.sharedEngine()
  return wrapEngine(engine, (request, hooks) => {
    asked.push(request.images ?? [])
    return engine.generate(request, hooks)
  })
}

async function untilState(jobId: string, state: string, worker: InsideWorker): Promise<void> {
  await until(
    async () => {
      await floor.sendDue()
      return (await floor.jobRow(jobId)).state === state
    },
    () => `${jobId} to be ${state}:\n${worker.output()}`,
  )
}

describe('a job with pictures to work from', () => {
  test('is drawn after them, in their order, and they are gone when it is over', async () => {
    const asked: (readonly Uint8Array[])[] = []
    const worker = await floor.startInside({ engine: await watchedEngine(asked), times: FAST })
    const jobs = [
      await newEdit(),
      await newEdit([pictures[1]!, pictures[0]!]),
      await floor.newJob({ steps: 1 }),
    ]
    for (const jobId of jobs) {
      await floor.queue.send(jobId)
      await floor.untilState(jobId, 'succeeded', worker)
      await floor.expectDelivered(jobId, 1)
      await expect.poll(() => inputsLeft(jobId)).toEqual([])
    }
    const lengths = asked.map((images) => images.map(({ length }) => length))
    const [first, second] = pictures.map(({ length }) => length)
    expect(lengths).toEqual([[first, second], [second, first], []])
    const sums = await Promise.all(
      jobs.map(async (jobId) => (await floor.outputsOf(jobId))[0]?.sha256),
    )
    expect(new Set(sums).size).toBe(3)
  })

  test.each<[string, (path: string) => Promise<void>]>([
    ['is gone', (path) => rm(path)],
    ['is cut short', async (path) => writeFile(path, (await readFile(path)).subarray(0, 50))],
    ['is another one', (path) => writeFile(path, pictures[0]!)],
  ])('of which one %s fails at once and costs nothing', async (_, spoil) => {
    const jobId = await newEdit()
    await spoil(fileOf(jobId, 1))
    const worker = await floor.startInside({ times: FAST })
    await floor.queue.send(jobId)
    await floor.untilState(jobId, 'failed', worker)
    expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 1, errorCode: 'input_gone' })
    await floor.expectNothingCharged(jobId)
    await expect.poll(() => inputsLeft(jobId)).toEqual([])
  })

  test('is given back without a failure while the store cannot be read', async () => {
    let reads = 0
    const store: PictureStore = {
      ...createFileStore(floor.objectDir),
      readInput(place) {
        reads += 1
        if (reads <= 5) return Promise.reject(new Error('the store is away'))
        return createFileStore(floor.objectDir).readInput(place)
      },
    }
    const jobId = await newEdit()
    const worker = await floor.startInside({ store, times: FAST })
    await floor.queue.send(jobId)
    await untilState(jobId, 'succeeded', worker)
    expect(await floor.jobRow(jobId)).toMatchObject({ attempt: 6, failures: 0 })
    await floor.expectDelivered(jobId, 1)
  })

  test('keeps them while a worker that leaves hands it to the next', async () => {
    const jobId = await newEdit()
    const engine = await floor.sharedEngine()
    let isDrawing = false
    const stuck = wrapEngine(engine, (_request, { signal } = {}) => {
      isDrawing = true
      return new Promise((_resolve, reject) => {
        signal?.addEventListener('abort', () => reject(new Error('stopped')))
      })
    })
    const leaving = await floor.startInside({ engine: stuck, times: FAST })
    await floor.queue.send(jobId)
    await until(
      () => isDrawing,
      () => 'the first worker to draw',
    )
    await leaving.stop()
    expect(await inputsLeft(jobId)).toHaveLength(2)
    const next = await floor.startInside({ times: FAST })
    await untilState(jobId, 'succeeded', next)
    await expect.poll(() => inputsLeft(jobId)).toEqual([])
  })

  test('ends all the same when they cannot be removed', async () => {
    const store: PictureStore = {
      ...createFileStore(floor.objectDir),
      removeInput: () => Promise.reject(new Error('the store is away')),
    }
    const jobId = await newEdit()
    const worker = await floor.startInside({ store, times: FAST })
    await floor.queue.send(jobId)
    await floor.untilState(jobId, 'succeeded', worker)
    await floor.untilQueueEmpty()
    expect(worker.log.map(({ event }) => event)).toContain('input_left_behind')
  })
})
