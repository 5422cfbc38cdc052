import { createHash } from 'node:crypto'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { errorBody } from '../../edge/contract.ts'
import { signOutputUrl } from '../../edge/signed-url.ts'
import { checkBooks } from '../support/books.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { Answer, Runtime, TestGateway } from '../support/gateway.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

/** What is special to one store is in results.test.ts. */
const RUNTIMES: Runtime[] = ['node', 'workerd']

interface Output {
  index: number
  url: string
  sha256: string
  size_bytes: number
}

describe.each(RUNTIMES)('on %s', (runtime) => {
  let gateway: TestGateway
  let tenant: Tenant

  beforeAll(async () => {
    gateway = await startTestGateway({ runtime })
    gateway.finisher.mode = 'hold'
  })
  afterAll(async () => {
    expect(await checkBooks(gateway.database.db)).toEqual([])
    await gateway.close()
  })
  beforeEach(async () => {
    tenant = await createTenant(gateway.database.db)
  })

  const call = (method: string, path: string, key: string, body?: unknown): Promise<Answer> =>
    gateway.call(method, path, { key, body })
  const sign = (jobId: string, body: object, key = tenant.apiKey) =>
    call('POST', `/v1/jobs/${jobId}/sign`, key, body)

  /** A finished job of this tenant. */
  async function finishJob(n = 1): Promise<string> {
    const body = { prompt: 'A sign', n, metadata: { note: 'secret plan' } }
    const created = await call('POST', '/v1/jobs', tenant.apiKey, body)
    await gateway.finisher.finish(created.body.id)
    return created.body.id
  }

  async function outputsOf(jobId: string): Promise<[Output, ...Output[]]> {
    return (await call('GET', `/v1/jobs/${jobId}`, tenant.apiKey)).body.outputs
  }

  /** The URL as it was handed out, at the address of this gateway. */
  function open(signed: string, init: RequestInit = {}): Promise<Response> {
    const { pathname, search } = new URL(signed)
    return fetch(`${gateway.url}${pathname}${search}`, init)
  }

  async function expectRefused(signed: string, status: number, type: string): Promise<void> {
    const response = await open(signed)
    const body = errorBody.parse(await response.json())
    expect([response.status, body.error.type]).toEqual([status, type])
  }

  async function hashOf(response: Response): Promise<string> {
    const bytes = new Uint8Array(await response.arrayBuffer())
    return createHash('sha256').update(bytes).digest('hex')
  }

  describe('result URLs', () => {
    test('serve the exact bytes without a key, typed, tagged and cached privately', async () => {
      const [{ url, sha256, size_bytes: size }] = await outputsOf(await finishJob())
      const response = await open(url)
      expect(response.status).toBe(200)
      expect(Object.fromEntries(response.headers)).toMatchObject({
        etag: `"${sha256}"`,
        'content-type': 'image/png',
        'content-length': String(size),
        'cache-control': 'private, max-age=3600, immutable',
        'x-content-type-options': 'nosniff',
        'access-control-allow-origin': '*',
      })
      expect(await hashOf(response)).toBe(sha256)
      const again = await open(url, { headers: { 'if-none-match': `"${sha256}"` } })
      expect([again.status, await again.text()]).toEqual([304, ''])
    })

    test('HEAD tells size and tag without bytes', async () => {
      const [{ url, size_bytes: size }] = await outputsOf(await finishJob())
      const response = await open(url, { method: 'HEAD' })
      expect([response.status, response.headers.get('content-length')]).toEqual([200, String(size)])
      expect(await response.text()).toBe('')
    })

    test('a key that a client sends along is tolerated, even a wrong one, and not logged', async () => {
      const [{ url }] = await outputsOf(await finishJob())
      const response = await open(url, { headers: { authorization: 'Bearer gp_live_nonsense' } })
      expect(response.status).toBe(200)
      await response.body?.cancel()
      if (runtime === 'node') expect(JSON.stringify(gateway.logged)).not.toContain('nonsense')
    })

    test('anything changed in the URL is refused', async () => {
      const [{ url: first }, second] = await outputsOf(await finishJob(2))
      const other = await finishJob()
      const id = /job_[0-9a-z]+/.exec(first)?.[0] ?? ''
      const sig = new URL(second?.url ?? '').searchParams.get('sig')
      const changes = [
        first.replace('/0.png', '/1.png'),
        first.replace('/0.png', '/0.webp'),
        first.replace('/0.png', '/00.png'),
        first.replace('/0.png', '/0.png%2f..%2f1.png'),
        first.replace(id, other),
        first.replace(/exp=(\d+)/, (_, exp: string) => `exp=${Number(exp) + 1}`),
        first.replace(/sig=.*/, `sig=${sig}`),
        `${first}&sig=x`,
        first.replace(/&sig=.*/, ''),
        first.replace(/\?.*/, ''),
        first.replace(/sig=./, 'sig=_'),
      ]
      for (const url of changes) {
        if (url !== first) await expectRefused(url, 403, 'bad_signature')
      }
    })

    test('past its expiry a URL answers 410, and a new one can be had', async () => {
      const jobId = await finishJob()
      const [{ sha256 }] = await outputsOf(jobId)
      const expired = await signOutputUrl(
        { pepper: TEST_PEPPER, publicUrl: gateway.url },
        { jobId, idx: 0, format: 'png', expiresAt: new Date(Date.now() - 1_000) },
      )
      await expectRefused(expired, 410, 'gone')
      const signed = await sign(jobId, { expires_in_seconds: 60 })
      const [{ url, expires_at: expiresAt }] = signed.body.outputs
      expect(Date.parse(expiresAt) - Date.now()).toBeLessThanOrEqual(60_000)
      const fresh = await open(url)
      const maxAge = /max-age=(\d+)/.exec(fresh.headers.get('cache-control') ?? '')?.[1]
      expect(Number(maxAge)).toBeLessThan(61)
      expect(await hashOf(fresh)).toBe(sha256)
    })

    test('a life of more than 30 days, of nothing or of another field is refused', async () => {
      const jobId = await finishJob()
      const bodies = [
        { expires_in_seconds: 30 * 86_400 + 1 },
        { expires_in_seconds: 0 },
        { expires_in_seconds: 60, forever: true },
      ]
      for (const body of bodies) {
        const { status, body: refused } = await sign(jobId, body)
        expect([status, refused.error.type]).toEqual([400, 'invalid_request'])
      }
      expect((await sign(jobId, { expires_in_seconds: 30 * 86_400 })).status).toBe(200)
    })

    test('nobody else can sign or delete, and an unfinished job has neither', async () => {
      const jobId = await finishJob()
      const stranger = await createTenant(gateway.database.db)
      const created = await call('POST', '/v1/jobs', tenant.apiKey, { prompt: 'A sign' })
      const life = { expires_in_seconds: 60 }
      const answers = [
        await sign(jobId, life, stranger.apiKey),
        await call('DELETE', `/v1/jobs/${jobId}`, stranger.apiKey),
        await sign(created.body.id, life),
        await call('DELETE', `/v1/jobs/${created.body.id}`, tenant.apiKey),
        await gateway.call('DELETE', `/v1/jobs/${jobId}`),
      ]
      expect(answers.map(({ status, body }) => [status, body.error.type])).toEqual([
        [404, 'not_found'],
        [404, 'not_found'],
        [422, 'not_finished'],
        [422, 'not_finished'],
        [401, 'key_missing'],
      ])
    })
  })

  test('after a deletion prompt, metadata and bytes are gone, URLs answer 410, the charge stays', async () => {
    const jobId = await finishJob()
    const [{ url }] = await outputsOf(jobId)
    const [row] = await gateway.database.db.sql<{ key: string }[]>`
      select object_key as key from job_output where job_id = ${jobId}`
    const deleted = await call('DELETE', `/v1/jobs/${jobId}`, tenant.apiKey)
    expect(deleted.body).toEqual({ id: jobId, deleted: true, objects_removed: 1 })
    await expectRefused(url, 410, 'gone')
    expect(await gateway.objects.read(row?.key ?? '')).toBeNull()
    const shown = await call('GET', `/v1/jobs/${jobId}`, tenant.apiKey)
    expect(shown.body).toMatchObject({
      state: 'succeeded',
      prompt: null,
      metadata: {},
      outputs: [],
      billing: { billed: true, charged: '0.015000' },
    })
    const signed = await sign(jobId, { expires_in_seconds: 60 })
    expect([signed.status, signed.body.error.type]).toEqual([410, 'gone'])
  })

  test('a picture that is lost from the store is 410 as well', async () => {
    const [{ url }] = await outputsOf(await finishJob())
    await gateway.database.db.sql`
      update job_output set object_key = replace(object_key, sha256, ${'0'.repeat(64)})
       where job_id in (select id from job where org_id = ${tenant.orgId})`
    await expectRefused(url, 410, 'gone')
  })
})
