import { expect, test } from 'vitest'
import { createHealth } from '../../gpu-worker/health.ts'
import type { JobEnd } from '../../gpu-worker/run-job.ts'

const SICK: JobEnd = {
  outcome: 'given_back',
  againSeconds: 0,
  isWorkerSick: true,
  errorCode: 'engine_start_failed',
}
const WELL: JobEnd = { outcome: 'settled', state: 'succeeded', delivered: 1 }

test('four jobs that meet the same failure are one failure, and three in a row break the worker', () => {
  const health = createHealth([60])
  const takenAt = performance.now()
  for (let job = 0; job < 4; job += 1) health.note(SICK, takenAt)
  expect(health.broken.aborted).toBe(false)
  expect(health.restMs()).toBeGreaterThan(59_000)
  health.note(SICK, performance.now())
  expect(health.broken.aborted).toBe(false)
  health.note(SICK, performance.now())
  expect(health.broken.aborted).toBe(true)
})

test('rests grow with failures in a row, and one that goes well ends the row', () => {
  const health = createHealth([10, 1_000])
  health.note(null, performance.now())
  expect(health.restMs()).toBeLessThanOrEqual(10_000)
  health.note(null, performance.now())
  expect(health.restMs()).toBeGreaterThan(900_000)
  health.note(WELL, performance.now())
  health.note(null, performance.now())
  expect(health.restMs()).toBeLessThanOrEqual(10_000)
})

test('a job that was taken before a failure and ends well after it says nothing about it', () => {
  const health = createHealth([10, 1_000])
  const takenAt = performance.now()
  health.note(SICK, performance.now())
  health.note(WELL, takenAt)
  health.note(SICK, performance.now())
  expect(health.restMs()).toBeGreaterThan(900_000)
})
