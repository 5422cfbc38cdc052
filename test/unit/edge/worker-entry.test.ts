import type { ExecutionContext } from '@cloudflare/workers-types'
import { beforeEach, describe, expect, test, vi } from 'vitest'
import { errorBody } from '../../../edge/contract.ts'
import type Entry from '../../../edge/index.ts'
import { TEST_PEPPER } from '../../support/pepper.ts'

/** The Worker's module, new for each test as for each isolate; it needs nothing that Node lacks. */
let worker: typeof Entry
let lines: Record<string, unknown>[]

const GOOD = {
  DATABASE_URL: 'postgres://user:secret@127.0.0.1:1/none',
  KEY_PEPPER: TEST_PEPPER,
  PUBLIC_URL: 'https://images.example',
  SQS_QUEUE_URL: 'https://sqs.example/000000000000/jobs',
  AWS_ACCESS_KEY_ID: 'test',
  AWS_SECRET_ACCESS_KEY: 'test',
  S3_BUCKET: 'pictures',
}

beforeEach(async () => {
  vi.resetModules()
  worker = (await import('../../../edge/index.ts')).default
  lines = []
  vi.spyOn(console, 'log').mockImplementation((line: string) => {
    lines.push(JSON.parse(line) as Record<string, unknown>)
  })
})

function call(bindings: object): Promise<Response> {
  const context = { waitUntil: () => {} } as unknown as ExecutionContext
  return worker.fetch(new Request('https://images.example/health/live'), bindings, context)
}

describe('a Worker whose environment is not complete', () => {
  test('answers with the error body and tells its log every bad name, and no value', async () => {
    const { S3_BUCKET: _bucket, DATABASE_URL: _url, ...rest } = GOOD
    const bindings = { ...rest, KEY_PEPPER: 'too-short', SYNC_WAIT_SECONDS: '1000' }
    for (let request = 0; request < 2; request++) {
      const response = await call(bindings)
      const body = errorBody.parse(await response.json())
      expect([response.status, body.error.type]).toEqual([500, 'internal'])
      expect(response.headers.get('x-request-id')).toBe(body.request_id)
      expect(JSON.stringify(body)).not.toContain('KEY_PEPPER')
      expect(lines.at(-1)).toMatchObject({ event: 'start_failed', request_id: body.request_id })
      const told = String(lines.at(-1)?.error)
      for (const name of ['KEY_PEPPER', 'SYNC_WAIT_SECONDS', 'S3_BUCKET', 'HYPERDRIVE']) {
        expect(told).toContain(name)
      }
      expect(told).not.toContain('too-short')
    }
  })
})

describe('a Worker whose environment is good', () => {
  test('reads it once for all requests', async () => {
    let reads = 0
    const bindings = Object.defineProperty({ ...GOOD }, 'KEY_PEPPER', {
      enumerable: true,
      get: () => {
        reads += 1
        return TEST_PEPPER
      },
    })
    expect((await call(bindings)).status).toBe(200)
    const first = reads
    expect((await call(bindings)).status).toBe(200)
    expect([first > 0, reads]).toEqual([true, first])
  })

  test('takes the binding of a pool in place of an address', async () => {
    const { DATABASE_URL: connectionString, ...rest } = GOOD
    expect((await call({ ...rest, HYPERDRIVE: { connectionString } })).status).toBe(200)
  })
})
