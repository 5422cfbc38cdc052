import { describe, expect, test } from 'vitest'
import * as edge from '../../edge/env.ts'
import * as worker from '../../gpu-worker/env.ts'

/** Gateway and worker read the same variables, each with code of its own. */
const PROCESSES = {
  gateway: (own: Record<string, string>) => {
    const env = edge.parseNodeEnv({ ...COMPLETE, ...own })
    return { queue: edge.queuePlace(env), bucket: edge.bucketPlace(env) }
  },
  worker: (own: Record<string, string>) => {
    const env = worker.parseWorkerEnv({ ...COMPLETE, ...own })
    return { queue: worker.queuePlace(env), bucket: worker.bucketPlace(env) }
  },
}
const COMPLETE = {
  DATABASE_URL: 'postgres://u:p@127.0.0.1/db',
  KEY_PEPPER: 'p'.repeat(32),
  PUBLIC_URL: 'http://127.0.0.1',
  SQS_QUEUE_URL: 'http://127.0.0.1:4566/0/jobs',
  S3_BUCKET: 'pictures',
  MODEL_DIR: 'gpu-worker/checkpoint',
}
const AWS = {
  AWS_REGION: 'eu-west-1',
  AWS_ACCESS_KEY_ID: 'AWS',
  AWS_SECRET_ACCESS_KEY: 'aws',
  AWS_SESSION_TOKEN: 'token',
}
const SQS = { SQS_REGION: 'local', SQS_ACCESS_KEY_ID: 'SQS', SQS_SECRET_ACCESS_KEY: 'sqs' }
const asAws = {
  region: 'eu-west-1',
  credentials: { accessKeyId: 'AWS', secretAccessKey: 'aws', sessionToken: 'token' },
}

describe.each(Object.entries(PROCESSES))('the %s', (_, placesOf) => {
  test('calls queue and bucket as the one caller that is named', () => {
    expect(placesOf(AWS)).toEqual({ queue: asAws, bucket: asAws })
  })

  test("keeps the queue's own caller from the bucket, and the session of AWS from the queue", () => {
    const asSqs = {
      region: 'local',
      credentials: { accessKeyId: 'SQS', secretAccessKey: 'sqs' },
    }
    expect(placesOf({ ...AWS, ...SQS })).toEqual({ queue: asSqs, bucket: asAws })
    expect(placesOf(SQS).bucket).not.toHaveProperty('credentials')
  })

  test('leaves it to the SDK to find keys when none are named, or only empty ones', () => {
    const empty = { AWS_ACCESS_KEY_ID: '', AWS_SECRET_ACCESS_KEY: '', AWS_SESSION_TOKEN: '' }
    const bare = { region: 'us-east-1' }
    expect(placesOf({})).toEqual({ queue: bare, bucket: bare })
    expect(placesOf({ ...empty, SQS_ENDPOINT: '' })).toEqual({ queue: bare, bucket: bare })
  })

  test('refuses half a pair of keys and does not show it', () => {
    const parse = () => placesOf({ AWS_ACCESS_KEY_ID: 'half', SQS_SECRET_ACCESS_KEY: 'half' })
    expect(parse).toThrow('AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY: one needs the other')
    expect(parse).toThrow('SQS_ACCESS_KEY_ID, SQS_SECRET_ACCESS_KEY: one needs the other')
    expect(parse).not.toThrow('half')
  })
})

test('on Workers the keys have to be named: there is no other place to find them', () => {
  expect(() => edge.parseWorkersEnv(COMPLETE)).toThrow('AWS_SECRET_ACCESS_KEY: is not set')
})
