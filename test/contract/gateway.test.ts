import { createHash } from 'node:crypto'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { announceModel } from '../../db/models.ts'
import { setBudget } from '../../db/orgs.ts'
import type { Limits } from '../../db/orgs.ts'
import { checkBooks } from '../support/books.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { Answer, CallOptions, Runtime, TestGateway } from '../support/gateway.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

const RUNTIMES: Runtime[] = ['node', 'workerd']
const PROMPT = { prompt: "A sign that says 'OPEN'" }
const ZAI = { model: 'glm-image', ...PROMPT }
const ZAI_OR_NATIVE = (path: string) => (path.includes('paas') ? ZAI : PROMPT)
const SYNC_PATHS = [
  '/v1/images/generations',
  '/api/paas/v4/images/generations',
  '/paas/v4/images/generations',
]

describe.each(RUNTIMES)('the gateway on %s', (runtime) => {
  let gateway: TestGateway
  let tenant: Tenant

  beforeAll(async () => {
    gateway = await startTestGateway({ runtime, env: { SYNC_WAIT_SECONDS: '2' } })
    tenant = await createTenant(gateway.database.db)
  })
  afterAll(async () => {
    expect(await checkBooks(gateway.database.db)).toEqual([])
    await gateway.close()
  })
  afterEach(() => {
    gateway.finisher.mode = 'draw'
  })

  const post = (path: string, body: unknown, options: CallOptions = {}): Promise<Answer> =>
    gateway.call('POST', path, { key: tenant.apiKey, body, ...options })
  const get = (path: string, key = tenant.apiKey) => gateway.call('GET', path, { key })

  async function ended(jobId: string): Promise<Answer['body']> {
    for (;;) {
      const { body } = await get(`/v1/jobs/${jobId}`)
      if (body.finished_at !== null) return body
    }
  }

  async function download(signed: string): Promise<Buffer> {
    const { pathname, search } = new URL(signed)
    const response = await fetch(`${gateway.url}${pathname}${search}`)
    expect(response.status).toBe(200)
    return Buffer.from(await response.arrayBuffer())
  }

  async function poorTenant(limits: { org?: Limits; team?: Limits; key?: Limits }) {
    return createTenant(gateway.database.db, limits)
  }

  describe('native jobs', () => {
    test('a job is accepted, rung for, drawn, billed and served', async () => {
      const created = await post('/v1/jobs', {
        ...PROMPT,
        n: 2,
        seed: 7,
        size: '1056x1568',
        output_format: 'webp',
        metadata: { order: '17' },
      })
      expect(created.status).toBe(201)
      expect(created.body).toMatchObject({
        n: 2,
        seed: 7,
        size: '1056x1568',
        metadata: { order: '17' },
        billing: { billed: null, reason: null, unit_price: '0.015000', held: '0.030000' },
      })
      const job = await ended(created.body.id)
      expect(job).toMatchObject({
        state: 'succeeded',
        billing: { billed: true, reason: 'delivered', held: '0.000000', charged: '0.030000' },
      })
      expect(job.outputs.map((output: Answer['body']) => output.seed)).toEqual([7, 8])
      for (const output of job.outputs) {
        const bytes = await download(output.url)
        expect(createHash('sha256').update(bytes).digest('hex')).toBe(output.sha256)
        expect(output.content_type).toBe('image/webp')
        const days = (Date.parse(output.expires_at) - Date.now()) / 86_400_000
        expect(days).toBeGreaterThan(29.9)
      }
      expect(gateway.finisher.rung).toContain(created.body.id)
    })

    test('a failed job says why and costs nothing', async () => {
      gateway.finisher.mode = 'fail'
      const { body } = await post('/v1/jobs', PROMPT)
      expect(await ended(body.id)).toMatchObject({
        state: 'failed',
        outputs: [],
        error: { code: 'worker_failed', message: 'No luck.' },
        billing: { billed: false, reason: 'failed', held: '0.000000', charged: '0.000000' },
      })
    })

    test('a job that waits is canceled at once and costs nothing; a second cancel says finished', async () => {
      gateway.finisher.mode = 'hold'
      const { body } = await post('/v1/jobs', PROMPT)
      const canceled = await post(`/v1/jobs/${body.id}/cancel`, undefined)
      expect(canceled.body).toEqual({ id: body.id, outcome: 'canceled' })
      const again = await post(`/v1/jobs/${body.id}/cancel`, undefined)
      expect(again.body.outcome).toBe('finished')
      expect(await ended(body.id)).toMatchObject({ state: 'canceled', billing: { billed: false } })
    })

    test('pages list every job once, newest first, and filter by state', async () => {
      const own = await createTenant(gateway.database.db)
      const ids: string[] = []
      for (let count = 0; count < 5; count++) {
        const { body } = await post('/v1/jobs', { ...PROMPT, n: 2 }, { key: own.apiKey })
        ids.unshift(body.id)
        await gateway.finisher.finish(body.id)
      }
      const seen: string[] = []
      let before = ''
      for (;;) {
        const { body } = await get(`/v1/jobs?limit=2${before}`, own.apiKey)
        seen.push(...body.data.map((job: Answer['body']) => job.id))
        for (const job of body.data) expect(job.outputs).toHaveLength(2)
        if (!body.has_more) break
        before = `&before=${body.next_before}`
      }
      expect(seen).toEqual(ids)
      expect((await get('/v1/jobs?state=failed', own.apiKey)).body.data).toEqual([])
      for (const limit of ['1000', '0', '1.5', 'x', '', '1&limit=2']) {
        const bad = await get(`/v1/jobs?limit=${limit}`, own.apiKey)
        expect([bad.status, bad.body.error]).toMatchObject([
          400,
          { param: 'limit', message: 'limit: must be a whole number from 1 to 100.' },
        ])
      }
      expect((await get('/v1/jobs?page=2', own.apiKey)).status).toBe(400)
    })

    test.each([
      [{}, 'prompt', 'missing_field'],
      [{ prompt: '  ' }, 'prompt', 'invalid_request'],
      [{ prompt: 7 }, 'prompt', 'invalid_request'],
      [{ prompt: 'x'.repeat(8_001) }, 'prompt', 'prompt_too_long'],
      [{ prompt: 'a\0b' }, 'prompt', 'invalid_request'],
      [{ prompt: '\ud800' }, 'prompt', 'invalid_request'],
      [{ ...PROMPT, n: 0 }, 'n', 'invalid_request'],
      [{ ...PROMPT, n: 11 }, 'n', 'invalid_request'],
      [{ ...PROMPT, n: 1.5 }, 'n', 'invalid_request'],
      [{ ...PROMPT, seed: -1 }, 'seed', 'invalid_request'],
      [{ ...PROMPT, size: '1000x1000' }, 'size', 'invalid_request'],
      [{ ...PROMPT, size: 'big' }, 'size', 'invalid_request'],
      [{ ...PROMPT, size: '2048x2080' }, 'size', 'invalid_request'],
      [{ ...PROMPT, model: 'dall-e-3' }, 'model', 'unknown_model'],
      [{ ...PROMPT, output_format: 'gif' }, 'output_format', 'invalid_request'],
      [{ ...PROMPT, model: 'x'.repeat(101) }, 'model', 'invalid_request'],
      [{ ...PROMPT, webhook_url: 'ftp://example.com' }, 'webhook_url', 'invalid_request'],
      [
        { ...PROMPT, webhook_url: `https://a.example/${'x'.repeat(2048)}` },
        'webhook_url',
        'invalid_request',
      ],
      [{ ...PROMPT, webhook_url: 'https://169.254.169.254/' }, 'webhook_url', 'invalid_request'],
      [{ ...PROMPT, metadata: { 'a\0': 'b' } }, 'metadata.a\0', 'invalid_request'],
      [{ ...PROMPT, metadata: { a: 7 } }, 'metadata.a', 'invalid_request'],
      [{ ...PROMPT, guidance_scale: 1e-320 }, 'guidance_scale', 'invalid_request'],
      [{ ...PROMPT, guidance_scale: -1 }, 'guidance_scale', 'invalid_request'],
      [{ ...PROMPT, metadata: JSON.parse('{"__proto__":"x"}') }, 'metadata', 'invalid_request'],
      [{ ...PROMPT, metadata: MANY_FIELDS }, 'metadata', 'invalid_request'],
    ])('%j is refused, naming the field', async (body, param, type) => {
      const answer = await post('/v1/jobs', body)
      expect([answer.status, answer.body.error.param, answer.body.error.type]).toEqual([
        400,
        param,
        type,
      ])
      expect(answer.body.error.message.length).toBeGreaterThan(param.length)
    })

    test.each([
      ['foo', 'webhook_url: is not a URL.'],
      ['http://hooks.example.com', 'webhook_url: must begin with https://.'],
      ['https://a:b@hooks.example.com', 'webhook_url: must not contain a user name or password.'],
      ['https://localhost/in', 'webhook_url: must name a host of the public internet.'],
    ])('a job is told what is wrong with its webhook URL %s', async (webhookUrl, message) => {
      const { body } = await post('/v1/jobs', { ...PROMPT, webhook_url: webhookUrl })
      expect(body.error).toMatchObject({ param: 'webhook_url', message })
    })

    test.each(['1728x960', '960x1728', '1024x1024', '2048x2048'])(
      'size %s is taken',
      async (size) => {
        gateway.finisher.mode = 'hold'
        const { status, body } = await post('/v1/jobs', { ...PROMPT, size })
        expect([status, body.size]).toEqual([201, size])
      },
    )
  })

  describe('a repeat under one idempotency key', () => {
    const under = (key: string) => ({ headers: { 'idempotency-key': key } })

    test('returns the first job and holds nothing more', async () => {
      gateway.finisher.mode = 'hold'
      const first = await post(
        '/v1/jobs',
        { ...PROMPT, metadata: { a: '1', b: '2' } },
        under('one'),
      )
      const again = await post(
        '/v1/jobs',
        { metadata: { b: '2', a: '1' }, ...PROMPT },
        under('one'),
      )
      expect([again.status, again.body.id]).toEqual([200, first.body.id])
      expect(again.headers.get('idempotent-replayed')).toBe('true')
      expect(first.headers.get('idempotent-replayed')).toBeNull()
    })

    test('makes one job of many calls at once', async () => {
      gateway.finisher.mode = 'hold'
      const answers = await Promise.all(
        Array.from({ length: 8 }, () => post('/v1/jobs', PROMPT, under('crowd'))),
      )
      expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1)
      expect(answers.filter(({ status }) => status === 201)).toHaveLength(1)
    })

    test('with another body is refused with 422', async () => {
      gateway.finisher.mode = 'hold'
      const first = await post('/v1/jobs', PROMPT, under('two'))
      const answer = await post('/v1/jobs', { ...PROMPT, n: 2 }, under('two'))
      expect([answer.status, answer.body]).toMatchObject([
        422,
        {
          task_id: first.body.id,
          error: { type: 'idempotency_mismatch', code: '1231', param: 'Idempotency-Key' },
        },
      ])
    })

    test('is nobody else’s: another tenant’s equal key makes its own job', async () => {
      gateway.finisher.mode = 'hold'
      const other = await createTenant(gateway.database.db)
      const mine = await post('/v1/jobs', PROMPT, under('shared'))
      const theirs = await post('/v1/jobs', PROMPT, { ...under('shared'), key: other.apiKey })
      expect(theirs.status).toBe(201)
      expect(theirs.body.id).not.toBe(mine.body.id)
    })

    test.each(SYNC_PATHS)(
      'of %s is 410 with the task id once its pictures are deleted',
      async (path) => {
        const options = under(`deleted ${path}`)
        const first = await post(path, ZAI_OR_NATIVE(path), options)
        await gateway.call('DELETE', `/v1/jobs/${first.body.id}`, { key: tenant.apiKey })
        const again = await post(path, ZAI_OR_NATIVE(path), options)
        expect([again.status, again.headers.get('x-should-retry')]).toEqual([410, 'false'])
        expect(again.body).toMatchObject({
          task_id: first.body.id,
          billed: true,
          error: { type: 'gone', code: '1222' },
        })
      },
    )

    test('while the first call waits, waits too and gets the same picture', async () => {
      gateway.finisher.mode = 'hold'
      const own = await createTenant(gateway.database.db)
      const call = () =>
        post('/v1/images/generations', PROMPT, { ...under('sync'), key: own.apiKey })
      const calls = [call(), call()]
      const list = async () => (await get('/v1/jobs', own.apiKey)).body.data
      await expect.poll(list).toHaveLength(1)
      const [{ id }] = await list()
      await gateway.finisher.finish(id)
      const answers = await Promise.all(calls)
      expect(answers.map((answer) => answer.body.id)).toEqual([id, id])
    })
  })

  describe('money', () => {
    test('without credit a job is refused: 402, hopeless, with the numbers', async () => {
      const poor = await poorTenant({ org: { creditMicros: 20_000n } })
      gateway.finisher.mode = 'hold'
      expect((await post('/v1/jobs', PROMPT, { key: poor.apiKey })).status).toBe(201)
      const answer = await post('/v1/jobs', PROMPT, { key: poor.apiKey })
      expect(answer.status).toBe(402)
      expect(answer.headers.get('x-should-retry')).toBe('false')
      expect(answer.body).toMatchObject({
        reason: 'credit',
        scope: 'org',
        limit: '0.020000',
        spent: '0.000000',
        held: '0.015000',
        amount: '0.015000',
        error: { code: '1113', type: 'insufficient_credit' },
      })
    })

    test('above a monthly budget: 403 with scope and the time of its reset', async () => {
      const poor = await poorTenant({ team: { monthLimitMicros: 15_000n } })
      gateway.finisher.mode = 'hold'
      await post('/v1/jobs', PROMPT, { key: poor.apiKey })
      const answer = await post('/v1/images/generations', PROMPT, { key: poor.apiKey })
      expect([answer.status, answer.headers.get('x-should-retry')]).toEqual([403, 'false'])
      expect(answer.body).toMatchObject({
        reason: 'budget',
        scope: 'team',
        period: 'month',
        limit: '0.015000',
        error: { code: '1308', type: 'budget_exceeded' },
      })
      expect(Date.parse(answer.body.resets_at)).toBeGreaterThan(Date.now())
    })

    test('above a daily budget: 403 that names the day and its end', async () => {
      const poor = await poorTenant({
        key: { dayLimitMicros: 15_000n, monthLimitMicros: 90_000n },
      })
      gateway.finisher.mode = 'hold'
      await post('/v1/jobs', PROMPT, { key: poor.apiKey })
      const answer = await post('/v1/jobs', PROMPT, { key: poor.apiKey })
      expect(answer.status).toBe(403)
      expect(answer.body).toMatchObject({
        reason: 'budget',
        scope: 'key',
        period: 'day',
        limit: '0.015000',
        spent: '0.000000',
        held: '0.015000',
        detail: 'The key has 0.000000 USD left this day, and this request needs 0.015000 USD.',
        error: { code: '1308', type: 'budget_exceeded' },
      })
      const msLeft = Date.parse(answer.body.resets_at) - Date.now()
      expect(msLeft).toBeGreaterThan(0)
      expect(msLeft).toBeLessThanOrEqual(86_400_000)
    })

    test.each(['/api/paas/v4', '/paas/v4'])(
      'in the Z.ai dialect under %s both are 429 that no client should repeat',
      async (base) => {
        const poor = await poorTenant({ org: { creditMicros: 0n } })
        const answer = await post(`${base}/images/generations`, ZAI, { key: poor.apiKey })
        expect([answer.status, answer.headers.get('x-should-retry')]).toEqual([429, 'false'])
        expect(answer.body.error.code).toBe('1113')
        await setBudget(gateway.database.db, {
          scope: 'org',
          scopeId: poor.orgId,
          creditMicros: null,
          monthLimitMicros: 0n,
        })
        const second = await post(`${base}/async/images/generations`, ZAI, { key: poor.apiKey })
        expect([second.status, second.body.error.code, second.body.reason]).toEqual([
          429,
          '1308',
          'budget',
        ])
      },
    )

    test('too many unfinished jobs: 429 that says so and may be repeated', async () => {
      const busy = await poorTenant({ key: { maxInflight: 1 } })
      gateway.finisher.mode = 'hold'
      await post('/v1/jobs', PROMPT, { key: busy.apiKey })
      const answer = await post('/v1/jobs', PROMPT, { key: busy.apiKey })
      expect(answer.status).toBe(429)
      expect(answer.headers.get('x-should-retry')).toBeNull()
      expect(Number(answer.headers.get('retry-after'))).toBeLessThanOrEqual(60)
      expect(answer.body).toMatchObject({
        reason: 'concurrency',
        scope: 'key',
        limit: 1,
        inflight: 1,
        error: { code: '1302', type: 'too_many_inflight' },
      })
    })

    test('the places left for unfinished jobs stand beside the rate limit, taken or refused', async () => {
      const busy = await poorTenant({ key: { maxInflight: 8 }, team: { maxInflight: 2 } })
      gateway.finisher.mode = 'hold'
      const paths = ['/v1/jobs', '/paas/v4/async/images/generations', '/v1/images/generations']
      const fields: [string | null, string | null][] = []
      for (const path of paths) {
        const { headers } = await post(path, ZAI_OR_NATIVE(path), { key: busy.apiKey })
        fields.push([headers.get('ratelimit-policy'), headers.get('ratelimit')])
      }
      const places = (free: number) => [
        '"requests";q=600;w=60, "inflight";q=2',
        expect.stringMatching(new RegExp(`^"requests";r=\\d+;t=\\d+, "inflight";r=${free}$`)),
      ]
      expect(fields).toEqual([places(1), places(0), places(0)])
      const free = await post('/v1/jobs', PROMPT)
      expect(free.headers.get('ratelimit')).not.toContain('inflight')
    })

    test('the balance shows every level', async () => {
      const rich = await poorTenant({
        org: { creditMicros: 100_000n },
        key: {
          dayLimitMicros: 30_000n,
          monthLimitMicros: 50_000n,
          maxInflight: 4,
          softBp: [8_000],
        },
      })
      const { body: job } = await post('/v1/jobs', PROMPT, { key: rich.apiKey })
      await gateway.finisher.finish(job.id)
      const { body } = await get('/v1/balance', rich.apiKey)
      expect(body.levels.map((level: Answer['body']) => [level.scope, level.id])).toEqual([
        ['key', rich.keyId],
        ['team', rich.teamId],
        ['org', rich.orgId],
      ])
      expect(body.levels[0]).toMatchObject({
        day_limit: '0.030000',
        day_limit_next: null,
        day_spent: '0.015000',
        month_limit: '0.050000',
        month_limit_next: null,
        max_inflight: 4,
        soft_thresholds_bp: [8_000],
      })
      expect(body.levels[2]).toMatchObject({ credit: '0.100000', credit_next: null })
      await setBudget(gateway.database.db, {
        scope: 'key',
        scopeId: rich.keyId,
        dayLimitMicros: 1_000n,
        monthLimitMicros: 2_000n,
      })
      await setBudget(gateway.database.db, {
        scope: 'org',
        scopeId: rich.orgId,
        creditMicros: 3_000n,
      })
      const { body: lowered } = await get('/v1/balance', rich.apiKey)
      expect(lowered.levels[0]).toMatchObject({
        day_limit: '0.015000',
        day_limit_next: '0.001000',
        month_limit: '0.015000',
        month_limit_next: '0.002000',
      })
      expect(lowered.levels[2]).toMatchObject({
        credit: '0.015000',
        credit_next: '0.003000',
        available: '0.000000',
      })
      const quote = await post('/v1/quote', { model: 'glm-image' }, { key: rich.apiKey })
      expect(quote.body).toMatchObject({ available: '0.000000', is_affordable: false })
    })
  })

  describe('the rate limit', () => {
    test('is stated in every answer and refuses with a wait that clients obey', async () => {
      const slow = await createTenant(gateway.database.db)
      await gateway.database.db.sql`
        update api_key set requests_per_minute = 2 where id = ${slow.keyId}`
      const first = await get('/v1/jobs', slow.apiKey)
      expect(first.headers.get('ratelimit-policy')).toBe('"requests";q=2;w=60')
      expect(first.headers.get('ratelimit')).toMatch(/^"requests";r=1;t=30$/)
      await get('/v1/jobs', slow.apiKey)
      const refused = await get('/v1/jobs', slow.apiKey)
      expect(refused.status).toBe(429)
      expect(refused.headers.get('retry-after')).toBe('30')
      expect(refused.body).toMatchObject({
        reason: 'rate',
        limit: 2,
        error: { code: '1302', type: 'rate_limited' },
      })
    })
  })

  describe('the Z.ai dialect', () => {
    test('sync: one picture with its price, expiry and checksum', async () => {
      const { status, body } = await post('/api/paas/v4/images/generations', {
        ...ZAI,
        size: '1280x1280',
        quality: 'hd',
        user_id: 'user-1234',
        watermark_enabled: false,
      })
      expect(status).toBe(200)
      expect(body).toMatchObject({
        billed: true,
        billed_reason: 'delivered',
        cost: '0.015000',
        ignored_fields: ['quality', 'watermark_enabled'],
      })
      const bytes = await download(body.data[0].url)
      expect(createHash('sha256').update(bytes).digest('hex')).toBe(body.data[0].sha256)
    })

    test('async: PROCESSING, then SUCCESS with links', async () => {
      gateway.finisher.mode = 'hold'
      const { body } = await post('/paas/v4/async/images/generations', ZAI)
      expect(body.task_status).toBe('PROCESSING')
      const pending = await get(`/paas/v4/async-result/${body.id}`)
      expect(pending.body).toMatchObject({ task_status: 'PROCESSING', billed: null })
      await gateway.finisher.finish(body.id)
      const done = await get(`/api/paas/v4/async-result/${body.id}`)
      expect(done.body).toMatchObject({ task_status: 'SUCCESS', billed: true, cost: '0.015000' })
      await download(done.body.image_result[0].url)
    })

    test('a failed task is status 200 with FAIL, a numeric code and no charge', async () => {
      gateway.finisher.mode = 'hold'
      const { body } = await post('/paas/v4/async/images/generations', ZAI)
      await gateway.finisher.finish(body.id, 'fail')
      const failed = await get(`/paas/v4/async-result/${body.id}`)
      expect(failed.status).toBe(200)
      expect(failed.body).toMatchObject({
        task_status: 'FAIL',
        billed: false,
        billed_reason: 'failed',
        cost: '0.000000',
        error: { code: '1230', type: 'worker_failed' },
      })
    })

    test('a task whose pictures were deleted is FAIL with the reason, and stays billed', async () => {
      gateway.finisher.mode = 'hold'
      const body = { ...ZAI, request_id: 'to-be-deleted' }
      const { body: task } = await post('/paas/v4/async/images/generations', body)
      await gateway.finisher.finish(task.id)
      await gateway.call('DELETE', `/v1/jobs/${task.id}`, { key: tenant.apiKey })
      const result = await get(`/paas/v4/async-result/${task.id}`)
      expect(result.status).toBe(200)
      expect(result.body).toMatchObject({
        task_status: 'FAIL',
        billed: true,
        error: { code: '1222', type: 'gone', message: 'The pictures were deleted.' },
      })
      expect(result.body.image_result).toBeUndefined()
      const again = await post('/paas/v4/async/images/generations', body)
      expect(again.body).toMatchObject({ id: task.id, task_status: 'FAIL' })
    })

    test('every refusal has digits for a code, and the hopeless ones say that no repeat helps', async () => {
      const path = '/paas/v4/async/images/generations'
      const body = { ...ZAI, request_id: 'refused' }
      await post(path, body)
      const refusals = [
        await gateway.call('POST', path, { body: ZAI }),
        await gateway.call('POST', path, { body: ZAI, key: `${tenant.keyId}.${'0'.repeat(64)}` }),
        await post(path, { ...ZAI, model: 'cogview-4-250304' }),
        await post(path, { ...ZAI, size: '1x1' }),
        await post(path, { ...ZAI, prompt: 'x'.repeat(8_001) }),
        await post(path, { ...ZAI, response_format: 'b64_json' }),
        await post(path, { model: 'glm-image' }),
        await post(path, '{'),
        await post(path, '[]'),
        await post(path, { ...body, prompt: 'Another' }),
        await get('/paas/v4/async-result/job_x'),
        await get('/paas/v4/videos/generations'),
      ]
      for (const { body: refused, headers } of refusals) {
        expect(refused.error.code).toMatch(/^\d{4}$/)
        expect(headers.get('x-should-retry')).toBe('false')
      }
      expect(refusals.map(({ body: refused }) => refused.error.code)).toEqual(
        '1001 1000 1211 1214 1261 1214 1213 1210 1214 1231 1222 1222'.split(' '),
      )
    })

    test('request_id makes a repeat safe, sync or async', async () => {
      const body = { ...ZAI, request_id: 'my-request-1' }
      const first = await post('/paas/v4/async/images/generations', body)
      const again = await post('/paas/v4/images/generations', body)
      expect(again.body.id).toBe(first.body.id)
      expect([first.body.request_id, again.body.request_id]).toEqual([
        'my-request-1',
        'my-request-1',
      ])
      const other = await post('/paas/v4/images/generations', { ...body, prompt: 'Another' })
      expect([other.status, other.body]).toMatchObject([
        422,
        { task_id: first.body.id, error: { code: '1231', param: 'request_id' } },
      ])
    })

    test('takes the key as Z.ai writes it', async () => {
      const answer = await post('/api/paas/v4/async/images/generations', ZAI, {
        key: tenant.zaiKey,
      })
      expect(answer.status).toBe(200)
    })

    test('takes width and height in place of size, both or neither', async () => {
      const taken = await post('/paas/v4/async/images/generations', {
        ...ZAI,
        width: 1056,
        height: 1568,
      })
      expect((await get(`/v1/jobs/${taken.body.id}`)).body.size).toBe('1056x1568')
      expect(taken.body.ignored_fields).toEqual([])
      const both = { ...ZAI, size: '1280x1280', width: 1056, height: 1568 }
      const named = await post('/paas/v4/async/images/generations', both)
      expect((await get(`/v1/jobs/${named.body.id}`)).body.size).toBe('1280x1280')
      expect(named.body.ignored_fields).toEqual(['height', 'width'])
      const half = await post('/paas/v4/async/images/generations', { ...ZAI, width: 1056 })
      expect([half.status, half.body.error.param]).toEqual([400, 'height'])
    })
  })

  describe('the OpenAI dialect', () => {
    test('n pictures are one job; url and b64_json hold the same bytes', async () => {
      const { body } = await post('/v1/images/generations', {
        ...PROMPT,
        n: 3,
        size: 'auto',
        style: 'vivid',
        user: 'u1',
        output_format: 'jpeg',
      })
      expect(body.data).toHaveLength(3)
      expect(body).toMatchObject({ cost: '0.045000', ignored_fields: ['style', 'user'] })
      const encoded = await post('/v1/images/generations', {
        ...PROMPT,
        n: 2,
        response_format: 'b64_json',
      })
      for (const image of encoded.body.data) {
        const bytes = Buffer.from(image.b64_json, 'base64')
        expect(createHash('sha256').update(bytes).digest('hex')).toBe(image.sha256)
      }
    })

    test('a picture that is not in the store is 410 before the answer begins', async () => {
      const order = { ...PROMPT, n: 2, response_format: 'b64_json' }
      const options = { headers: { 'idempotency-key': 'in base 64' } }
      const { body } = await post('/v1/images/generations', order, options)
      await gateway.database.db.sql`
        update job_output set object_key = replace(object_key, sha256, ${'0'.repeat(64)})
         where job_id = ${body.id} and idx = 0`
      const again = await post('/v1/images/generations', order, options)
      expect([again.status, again.body.error.type]).toEqual([410, 'gone'])
      expect(again.body).toMatchObject({ task_id: body.id, billed: true })
    })

    test('a failed job is an error that says that nothing was charged', async () => {
      gateway.finisher.mode = 'fail'
      const answer = await post('/v1/images/generations', PROMPT)
      expect([answer.status, answer.headers.get('x-should-retry')]).toEqual([500, 'false'])
      expect(answer.body).toMatchObject({
        billed: false,
        state: 'failed',
        error_code: 'worker_failed',
      })
    })

    test('streaming is refused in words', async () => {
      const answer = await post('/v1/images/generations', { ...PROMPT, stream: true })
      expect([answer.status, answer.body.error.param]).toEqual([400, 'stream'])
    })
  })

  describe('a synchronous call', () => {
    test('hands over to the task id when time is up; an equal call then takes up the same job', async () => {
      gateway.finisher.mode = 'hold'
      const own = await createTenant(gateway.database.db)
      const late = await post('/v1/images/generations', PROMPT, { key: own.apiKey })
      expect([late.status, late.headers.get('x-should-retry')]).toEqual([504, 'false'])
      const { task_id: taskId } = late.body
      expect(late.body.error.message).toContain(taskId)
      await gateway.finisher.finish(taskId)
      const again = await post('/v1/images/generations', PROMPT, { key: own.apiKey })
      expect([again.body.id, again.headers.get('idempotent-replayed')]).toEqual([taskId, 'true'])
      gateway.finisher.mode = 'draw'
      const third = await post('/v1/images/generations', PROMPT, { key: own.apiKey })
      expect(third.body.id).not.toBe(taskId)
    })

    test.each(['canceled', 'failed', 'deleted'])(
      'whose job was %s after it was sent away: an equal call is a new order',
      async (fate) => {
        gateway.finisher.mode = 'hold'
        const own = await createTenant(gateway.database.db)
        const late = await post('/v1/images/generations', PROMPT, { key: own.apiKey })
        const { task_id: taskId } = late.body
        const path = `/v1/jobs/${taskId}`
        if (fate === 'canceled') await post(`${path}/cancel`, undefined, { key: own.apiKey })
        else await gateway.finisher.finish(taskId, fate === 'failed' ? 'fail' : 'draw')
        if (fate === 'deleted') await gateway.call('DELETE', path, { key: own.apiKey })
        gateway.finisher.mode = 'draw'
        const again = await post('/v1/images/generations', PROMPT, { key: own.apiKey })
        expect(again.status).toBe(200)
        expect(again.body.id).not.toBe(taskId)
        expect(again.headers.get('idempotent-replayed')).toBeNull()
      },
    )
  })

  describe('models', () => {
    test('the sizes on offer are those of the announced checkpoint', async () => {
      const before = await get('/v1/models')
      expect(before.body.data[0]).toMatchObject({
        id: 'glm-image',
        price_per_image: '0.015000',
        sizes: { min_side: 1024, max_side: 2048, multiple_of: 32 },
      })
      const order = { ...PROMPT, size: '1280x1280' }
      const ordered = { headers: { 'idempotency-key': 'before the change' } }
      const first = await post('/v1/jobs', order, ordered)
      await announceModel(gateway.database.db, SMALL_MODEL)
      const after = await get('/v1/models')
      expect(after.body.data[0]).toMatchObject({
        notice: 'A small checkpoint.',
        sizes: { default: '64x64', min_side: 32, max_side: 128 },
        max_input_images: 2,
      })
      const { body } = await post('/v1/jobs', PROMPT)
      expect(body.size).toBe('64x64')
      expect((await post('/v1/jobs', order)).status).toBe(400)
      // What was ordered before is answered as before; what is new is held to the rules of today.
      const again = await post('/v1/jobs', order, ordered)
      expect([again.status, again.body.id]).toEqual([200, first.body.id])
      expect((await post('/v1/jobs', { ...order, n: 2 }, ordered)).status).toBe(422)
      const other = { headers: { 'idempotency-key': 'after the change' } }
      expect((await post('/v1/jobs', order, other)).status).toBe(400)
    })
  })

  test('health needs no key', async () => {
    expect((await gateway.call('GET', '/health/live')).body).toEqual({ status: 'ok' })
    expect((await gateway.call('GET', '/health/ready')).body).toEqual({ status: 'ok' })
  })
})

const MANY_FIELDS = Object.fromEntries(Array.from({ length: 17 }, (_, index) => [`f${index}`, 'x']))

const SMALL_MODEL = {
  id: 'glm-image',
  weightsHash: 'abc',
  notice: 'A small checkpoint.',
  size: {
    default: '64x64',
    recommended: ['64x64'],
    min_side: 32,
    max_side: 128,
    multiple_of: 32,
    max_pixels: 16_384,
  },
  steps: 8,
  guidanceScale: 1.5,
  images: { max_count: 2 },
}
