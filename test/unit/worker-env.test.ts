import { expect, test } from 'vitest'
import { parseWorkerEnv } from '../../gpu-worker/env.ts'
import {
  ATTEMPT_SECONDS,
  BEAT_SECONDS,
  DRAIN_MS,
  VISIBILITY_SECONDS,
} from '../../gpu-worker/settings.ts'

const COMPLETE = {
  DATABASE_URL: 'postgres://u:secret@127.0.0.1/db',
  SQS_QUEUE_URL: 'http://127.0.0.1:4566/0/jobs',
  OBJECT_DIR: '/tmp/objects',
  MODEL_DIR: 'gpu-worker/checkpoint',
}

test('an environment that lacks several variables is refused with all their names at once', () => {
  const parse = () => parseWorkerEnv({ THREADS: 'many', SQS_QUEUE_URL: 'nowhere' })
  for (const name of [
    'DATABASE_URL',
    'SQS_QUEUE_URL',
    'MODEL_DIR or ENGINE_URL',
    'THREADS',
    'OBJECT_DIR or S3_BUCKET',
  ])
    expect(parse).toThrow(`  ${name}: `)
})

test('a refused environment never shows a value', () => {
  const parse = () => parseWorkerEnv({ ...COMPLETE, DATABASE_URL: 'mysql://u:secret@host/db' })
  expect(parse).toThrow('DATABASE_URL: must begin with postgres://')
  expect(parse).not.toThrow('secret')
})

test('a complete environment gets a worker id of its own', () => {
  expect(parseWorkerEnv(COMPLETE)).toMatchObject({
    WORKER_ID: expect.stringContaining(String(process.pid)),
    PROVIDER: 'cpu',
  })
})

test('two beats may be missed, and a stop ends before its supervisor insists', () => {
  expect(3 * BEAT_SECONDS).toBeLessThanOrEqual(VISIBILITY_SECONDS)
  expect(ATTEMPT_SECONDS).toBeGreaterThan(VISIBILITY_SECONDS)
  expect(DRAIN_MS).toBeLessThan(10_000)
})
