import OpenAI, { toFile } from 'openai'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { checkBooks } from '../support/books.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { drawPicture } from '../support/pictures.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

const PROMPT = "A poster that says 'GRAND OPENING' and “año nuevo”"
const misspell = (text: string) => text.replace('OPENING', 'OPENIMG')

describe.each(['node', 'workerd'] as const)('the texts of pictures, on %s', (runtime) => {
  let gateway: TestGateway
  let tenant: Tenant

  beforeAll(async () => {
    gateway = await startTestGateway({ runtime })
    tenant = await createTenant(gateway.database.db)
  })
  afterEach(() => {
    gateway.finisher.spell = (text) => text
  })
  afterAll(async () => {
    expect(await checkBooks(gateway.database.db)).toEqual([])
    await gateway.close()
  })

  const post = (path: string, body: unknown, headers: Record<string, string> = {}) =>
    gateway.call('POST', path, { key: tenant.apiKey, body, headers })

  /** The job once it has ended. */
  async function finished(jobId: string) {
    const get = () => gateway.call('GET', `/v1/jobs/${jobId}`, { key: tenant.apiKey })
    await expect.poll(async () => (await get()).body.state, { timeout: 30_000 }).toBe('succeeded')
    return (await get()).body
  }

  test('a job says what it will compare, and its pictures what was read', async () => {
    const { body } = await post('/v1/jobs', { prompt: PROMPT, text_guarantee: 'report' })
    const expected = ['GRAND OPENING', 'año nuevo']
    expect(body.text_guarantee).toEqual({ guarantee: 'report', threshold: 1, retries: 0, expected })
    const { outputs, billing } = await finished(body.id)
    expect(outputs[0].text).toMatchObject({
      status: 'checked',
      passed: true,
      word_accuracy: 1,
      ned: 1,
      texts: expected.map((text) => ({ expected: text, matched: true, missing: [] })),
      engine: 'pp-ocrv6-small',
    })
    expect(billing).toMatchObject({ billed: true, reason: 'delivered' })
  })

  test('a miss under refund is delivered and free, by job, receipts, usage, balance and event', async () => {
    gateway.finisher.spell = misspell
    const own = await createTenant(gateway.database.db)
    const call = (method: string, path: string, body?: unknown) =>
      gateway.call(method, path, { key: own.apiKey, ...(body === undefined ? {} : { body }) })
    const made = await call('POST', '/v1/jobs', { prompt: PROMPT, text_guarantee: 'refund', n: 2 })
    const get = async () => (await call('GET', `/v1/jobs/${made.body.id}`)).body
    await expect.poll(async () => (await get()).state, { timeout: 30_000 }).toBe('succeeded')
    const job = await get()
    expect(job.billing).toMatchObject({
      billed: false,
      reason: 'text_mismatch',
      held: '0.000000',
      charged: '0.000000',
    })
    expect(job.outputs).toHaveLength(2)
    expect(job.outputs[0]).toMatchObject({
      unbilled_reason: 'text_mismatch',
      text: { passed: false, word_accuracy: 0.75 },
    })
    const { pathname, search } = new URL(job.outputs[0].url)
    expect((await fetch(gateway.url + pathname + search)).status).toBe(200)
    const receipts = (await call('GET', `/v1/jobs/${made.body.id}/receipts`)).body
    expect(JSON.stringify(receipts)).not.toContain('"billed":true')
    expect((await call('GET', '/v1/usage')).body.data ?? []).toEqual([])
    const { month } = (await call('GET', '/v1/statements')).body.data[0]
    const statement = (await call('GET', `/v1/statements/${month}`)).body
    expect(statement.total).toMatchObject({ images: 0, due: '0.000000' })
    const focus = await call('GET', `/v1/statements/${month}?format=focus&focus_version=1.4`)
    expect(new TextDecoder().decode(focus.body).trim().split('\n')).toHaveLength(1)
    const [event] = await gateway.database.db.sql`
      select payload->'data' as data from webhook_event where subject_id = ${made.body.id}`
    expect(event?.['data']).toMatchObject({ delivered: 2, billed: false, text_passed: false })
  })

  test('the openai client asks by extra fields, and reads what came of it', async () => {
    gateway.finisher.spell = misspell
    const client = new OpenAI({ apiKey: tenant.apiKey, baseURL: `${gateway.url}/v1` })
    const body = {
      model: 'glm-image',
      prompt: PROMPT,
      text_guarantee: 'refund',
      text_threshold: 0.8,
    }
    const answer = await client.images.generate(body)
    expect(answer).toMatchObject({
      billed: false,
      billed_reason: 'text_mismatch',
      cost: '0.000000',
      ignored_fields: [],
      data: [{ unbilled_reason: 'text_mismatch', text: { word_accuracy: 0.75 } }],
    })
    const lenient = { ...body, text_threshold: 0.7 }
    expect(await client.images.generate(lenient)).toMatchObject({
      billed: true,
      data: [{ text: { passed: true } }],
    })
  })

  test('the openai client asks by headers, for an edit too', async () => {
    const client = new OpenAI({
      apiKey: tenant.apiKey,
      baseURL: `${gateway.url}/v1`,
      defaultHeaders: {
        'x-text-guarantee': 'retry',
        'x-text-retries': '1',
        'x-text-expected': '["a\\u00f1o nuevo"]',
      },
    })
    let draws = 0
    gateway.finisher.spell = (text) => (++draws === 1 ? 'ano nuevo' : text)
    const answer = await client.images.generate({ model: 'glm-image', prompt: PROMPT })
    expect(answer).toMatchObject({
      billed: true,
      cost: '0.015000',
      data: [{ text: { passed: true, draws: 2, texts: [{ expected: 'año nuevo' }] } }],
    })
    const file = Buffer.from(await drawPicture(1, { width: 64, height: 64 }))
    const edit = await client.images.edit({
      model: 'glm-image',
      image: await toFile(file, 'a.png', { type: 'image/png' }),
      prompt: PROMPT,
    })
    expect(edit).toMatchObject({ data: [{ text: { passed: true } }] })
  })

  test('the Z.ai dialect takes both ways', async () => {
    gateway.finisher.spell = misspell
    const body = { model: 'glm-image', prompt: PROMPT }
    const path = '/api/paas/v4/images/generations'
    const { body: sync } = await post(path, { ...body, text_guarantee: 'refund' })
    expect(sync).toMatchObject({
      billed: false,
      billed_reason: 'text_mismatch',
      ignored_fields: [],
      data: [{ text: { passed: false } }],
    })
    const task = await post('/api/paas/v4/async/images/generations', body, {
      'x-text-guarantee': 'report',
    })
    const get = () =>
      gateway.call('GET', `/api/paas/v4/async-result/${task.body.id}`, { key: tenant.apiKey })
    await expect
      .poll(async () => (await get()).body.task_status, { timeout: 30_000 })
      .toBe('SUCCESS')
    expect((await get()).body).toMatchObject({
      billed: true,
      image_result: [{ text: { passed: false } }],
    })
  })

  test('a quote says what a miss costs', async () => {
    const { body } = await post('/v1/quote', { n: 2, text_guarantee: 'refund' })
    expect(body).toMatchObject({ total: '0.030000', total_if_text_missed: '0.000000' })
    expect((await post('/v1/quote', { n: 2, text_guarantee: 'retry' })).body).toMatchObject({
      total_if_text_missed: '0.030000',
    })
  })

  test.each([
    [{ prompt: 'A poster', text_guarantee: 'refund' }, 'text_guarantee'],
    [{ prompt: "it's a dog's", text_guarantee: 'retry' }, 'text_guarantee'],
    [{ prompt: PROMPT, text_threshold: 0.5 }, 'text_threshold'],
    [{ prompt: PROMPT, text_guarantee: 'report', text_retries: 1 }, 'text_retries'],
    [{ prompt: PROMPT, text_guarantee: 'retry', text_retries: 0 }, 'text_retries'],
    [{ prompt: PROMPT, text_guarantee: 'retry', text_retries: 5 }, 'text_retries'],
    [{ prompt: PROMPT, text_guarantee: 'refund', text_threshold: 1.5 }, 'text_threshold'],
    [{ prompt: PROMPT, text_guarantee: 'refund', text_expected: ['CLOSED'] }, 'text_expected[0]'],
    [{ prompt: PROMPT, text_guarantee: 'refund', text_expected: ['...'] }, 'text_expected[0]'],
    [{ prompt: PROMPT, text_guarantee: 'free' }, 'text_guarantee'],
  ])('%j is refused and names %s', async (body, param) => {
    const answer = await post('/v1/jobs', body)
    expect(answer.status).toBe(400)
    expect(answer.body.error.param).toBe(param)
  })

  test('a header that is no list is refused', async () => {
    const answer = await post(
      '/v1/jobs',
      { prompt: PROMPT },
      { 'x-text-guarantee': 'report', 'x-text-expected': 'OPEN' },
    )
    expect(answer.status).toBe(400)
    expect(answer.body.error.message).toContain('x-text-expected')
  })

  test('a repeat under one key is the same job, and with other terms another order', async () => {
    const headers = { 'idempotency-key': `text-${runtime}` }
    const body = { prompt: PROMPT, text_guarantee: 'report' }
    const first = await post('/v1/jobs', body, headers)
    expect((await post('/v1/jobs', body, headers)).body.id).toBe(first.body.id)
    const other = await post('/v1/jobs', { ...body, text_guarantee: 'retry' }, headers)
    expect(other.body.error.type).toBe('idempotency_mismatch')
    await finished(first.body.id)
  })
})
