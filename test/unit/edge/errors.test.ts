import { Hono } from 'hono'
import { HTTPException } from 'hono/http-exception'
import { describe, expect, test } from 'vitest'
import { errorBody } from '../../../edge/contract.ts'
import { ApiError, ERRORS, ZAI_STATUS, createOnError } from '../../../edge/errors.ts'
import type { ErrorName } from '../../../edge/errors.ts'

const NAMES = Object.keys(ERRORS) as ErrorName[]

/** The response to a call whose handler throws, and what was logged of it. */
async function answerTo(error: unknown): Promise<{
  response: Response
  body: Record<string, unknown>
  logged: Record<string, unknown>[]
}> {
  const logged: Record<string, unknown>[] = []
  const app = new Hono()
  app.onError(createOnError((entry) => void logged.push(entry)))
  app.get('/', () => {
    throw error
  })
  const response = await app.request('/')
  return { response, body: (await response.clone().json()) as Record<string, unknown>, logged }
}

describe('every error of the table', () => {
  test.each(NAMES)('%s is problem details and an `error` member in one body', async (name) => {
    const { response, body } = await answerTo(new ApiError(name, { param: 'size' }))
    const { status, code, title } = ERRORS[name]
    expect(response.status).toBe(status)
    expect(response.headers.get('content-type')).toBe('application/problem+json')
    expect(body).toEqual({
      type: `urn:glyphpress:error:${name}`,
      title,
      status,
      detail: title,
      request_id: response.headers.get('x-request-id'),
      error: { message: title, type: name, param: 'size', code },
    })
    expect(errorBody.safeParse(body).error).toBeUndefined()
  })

  test.each(NAMES)('%s has a code that the Java client can turn into a number', (name) => {
    expect(ERRORS[name].code).toMatch(/^1\d{3}$/)
  })

  test.each(NAMES)('%s tells clients not to retry exactly when that is hopeless', async (name) => {
    const { response } = await answerTo(new ApiError(name))
    expect(response.headers.get('x-should-retry')).toBe(ERRORS[name].retryable ? null : 'false')
  })
})

describe('an error that is not ours', () => {
  test('sends a fixed sentence and logs its text under the request id', async () => {
    const { response, body, logged } = await answerTo(new Error('password=hunter2 at db.internal'))
    expect(response.status).toBe(500)
    expect(JSON.stringify(body)).not.toMatch(/hunter2|db\.internal/)
    expect(body.detail).toBe(ERRORS.internal.title)
    expect(logged).toHaveLength(1)
    expect(logged[0]).toMatchObject({ level: 'error', request_id: body.request_id })
    expect(String(logged[0]?.error)).toContain('hunter2')
  })

  test.each(['ECONNREFUSED', 'CONNECT_TIMEOUT', 'CONNECTION_CLOSED', '57P01', '53300', '08006'])(
    'of the database connection (%s), also when wrapped, is 503 with Retry-After',
    async (code) => {
      const cause = Object.assign(new Error('no connection to 10.0.0.5'), { code })
      const { response, body } = await answerTo(new Error('query failed', { cause }))
      expect(response.status).toBe(503)
      expect(response.headers.get('retry-after')).toBe('5')
      expect(response.headers.get('x-should-retry')).toBeNull()
      expect(JSON.stringify(body)).not.toContain('10.0.0.5')
    },
  )

  test.each([
    [400, 'invalid_json'],
    [413, 'payload_too_large'],
    [415, 'unsupported_media_type'],
  ] as const)('of the framework with status %i is %s', async (status, name) => {
    const { response, body } = await answerTo(new HTTPException(status, { message: 'framework' }))
    expect(response.status).toBe(ERRORS[name].status)
    expect(body.error).toMatchObject({ type: name })
  })

  test('of Postgres about the text itself is the fault of the caller', async () => {
    const { response } = await answerTo(Object.assign(new Error('0x00'), { code: '22021' }))
    expect(response.status).toBe(400)
  })
})

describe("Z.ai's dialect", () => {
  test('knows trouble with money as 429 that is not to be retried', async () => {
    for (const [name, status] of Object.entries(ZAI_STATUS)) {
      const { response } = await answerTo(new ApiError(name as ErrorName, { status }))
      expect(response.status).toBe(429)
      expect(response.headers.get('x-should-retry')).toBe('false')
      expect(response.headers.get('retry-after')).toBeNull()
    }
    expect(ERRORS.insufficient_credit.code).toBe('1113')
  })
})
