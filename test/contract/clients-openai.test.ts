import OpenAI, { toFile } from 'openai'
import sharp from 'sharp'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { createTenant } from '../support/tenant.ts'

let gateway: TestGateway
beforeAll(async () => {
  gateway = await startTestGateway()
})
afterAll(() => gateway.close())
beforeEach(() => {
  gateway.finisher.mode = 'draw'
})

const PNG = [0x89, 0x50, 0x4e, 0x47]

interface Spied {
  client: OpenAI
  /** Status of every call that went out, retries included. */
  statuses: number[]
}

/** OpenAI's own client with only key and address set. */
function createClient(apiKey: string, base = '/v1'): Spied {
  const statuses: number[] = []
  const client = new OpenAI({
    apiKey,
    baseURL: `${gateway.url}${base}`,
    fetch: async (input, init) => {
      const response = await fetch(input, init)
      // Before its first form it tries its fetch out on a data: URL.
      if (response.url.startsWith(gateway.url)) statuses.push(response.status)
      return response
    },
  })
  return { client, statuses }
}

describe('the unmodified openai client', () => {
  test.each(['/v1', '/api/paas/v4', '/paas/v4'])('gets a picture by URL under %s', async (base) => {
    const { apiKey } = await createTenant(gateway.database.db)
    const { client } = createClient(apiKey, base)
    const answer = await client.images.generate({ model: 'glm-image', prompt: "A sign 'OPEN'" })
    expect(answer.created).toBeTypeOf('number')
    expect(answer).toMatchObject({ billed: true, billed_reason: 'delivered', cost: '0.015000' })
    const url = answer.data?.[0]?.url ?? ''
    const picture = await fetch(url)
    expect(picture.headers.get('content-type')).toBe('image/png')
    expect([...new Uint8Array(await picture.arrayBuffer()).subarray(0, 4)]).toEqual(PNG)
  })

  test('gets several pictures as base 64', async () => {
    const { apiKey } = await createTenant(gateway.database.db)
    const answer = await createClient(apiKey).client.images.generate({
      model: 'glm-image',
      prompt: 'A sign',
      n: 2,
      size: '1024x1024',
      response_format: 'b64_json',
    })
    expect(answer.data).toHaveLength(2)
    for (const { b64_json: text = '' } of answer.data ?? []) {
      expect([...Buffer.from(text, 'base64').subarray(0, 4)]).toEqual(PNG)
    }
    expect(answer).toMatchObject({ size: '1024x1024', cost: '0.030000' })
  })

  test('may send the fields that its wrappers always send; those are named, not refused', async () => {
    const { apiKey } = await createTenant(gateway.database.db)
    const answer = await createClient(apiKey).client.images.generate({
      model: 'glm-image',
      prompt: 'A sign',
      n: 1,
      style: 'vivid',
      quality: 'standard',
      response_format: 'url',
      user: 'user-1',
    })
    expect(answer).toMatchObject({ ignored_fields: ['quality', 'style', 'user'] })
  })

  test.each(['/v1', '/api/paas/v4', '/paas/v4'])(
    'lists and finds models with the price under %s',
    async (base) => {
      const { apiKey } = await createTenant(gateway.database.db)
      const { client } = createClient(apiKey, base)
      const expected = { id: 'glm-image', object: 'model', price_per_image: '0.015000' }
      expect((await client.models.list()).data).toMatchObject([expected])
      expect(await client.models.retrieve('glm-image')).toMatchObject(expected)
      await expect(client.models.retrieve('dall-e-3')).rejects.toThrow(OpenAI.NotFoundError)
    },
  )

  test('edits one picture, and several, by URL and as base 64', async () => {
    const { apiKey } = await createTenant(gateway.database.db)
    const { client, statuses } = createClient(apiKey)
    const draw = (background: string) =>
      sharp({ create: { width: 800, height: 600, channels: 3, background } })
        .jpeg()
        .toBuffer()
    const [red, blue] = [
      await toFile(draw('#c00'), 'red.jpg'),
      await toFile(draw('#00c'), 'blue.jpg'),
    ]
    const one = await client.images.edit({
      model: 'glm-image',
      image: red,
      prompt: "Write 'OPEN' on it",
      background: 'transparent',
      quality: 'high',
    })
    expect(one).toMatchObject({
      size: '1376x1024',
      cost: '0.015000',
      ignored_fields: ['background', 'quality'],
    })
    const link = await fetch(one.data?.[0]?.url ?? '')
    expect([...new Uint8Array(await link.arrayBuffer()).subarray(0, 4)]).toEqual(PNG)
    const several = await client.images.edit({
      image: [red, blue],
      prompt: 'Put them side by side',
      n: 2,
      size: '1024x1024',
      response_format: 'b64_json',
    })
    expect(several.data).toHaveLength(2)
    for (const { b64_json: text = '' } of several.data ?? []) {
      expect([...Buffer.from(text, 'base64').subarray(0, 4)]).toEqual(PNG)
    }
    expect(statuses).toEqual([200, 200])
  })

  test('hears once that a mask or a file that is no picture cannot be used', async () => {
    const { apiKey } = await createTenant(gateway.database.db)
    const { client, statuses } = createClient(apiKey)
    const picture = await toFile(
      sharp({ create: { width: 64, height: 64, channels: 3, background: '#c00' } })
        .png()
        .toBuffer(),
      'a.png',
    )
    const text = await toFile(Buffer.from('hello'), 'b.png', { type: 'image/png' })
    const edit = (body: { image: typeof picture; mask?: typeof picture }) =>
      client.images
        .edit({ model: 'glm-image', prompt: 'x', ...body })
        .catch((thrown: unknown) => thrown)
    expect(await edit({ image: picture, mask: picture })).toMatchObject({
      status: 400,
      param: 'mask',
    })
    expect(await edit({ image: text })).toMatchObject({ status: 400, param: 'image' })
    expect(statuses).toEqual([400, 400])
  })

  test('reads message, code, field and request id of a refused size, and does not try again', async () => {
    const { apiKey } = await createTenant(gateway.database.db)
    const { client, statuses } = createClient(apiKey)
    const error = await client.images
      .generate({ model: 'glm-image', prompt: 'A sign', size: '1000x1000' })
      .catch((thrown: unknown) => thrown)
    if (!(error instanceof OpenAI.BadRequestError)) throw error
    expect(error).toMatchObject({
      status: 400,
      code: '1214',
      param: 'size',
      type: 'invalid_request',
    })
    expect(error.message).toContain('multiple of 32')
    expect(error.requestID).toMatch(/^req_/)
    expect(statuses).toEqual([400])
  })

  test('does not try again with an empty account', async () => {
    const { apiKey } = await createTenant(gateway.database.db, { org: { creditMicros: 14_999n } })
    for (const [base, status] of [
      ['/v1', 402],
      ['/paas/v4', 429],
    ] as const) {
      const { client, statuses } = createClient(apiKey, base)
      const error = await client.images
        .generate({ model: 'glm-image', prompt: 'A sign' })
        .catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({ status, code: '1113', type: 'insufficient_credit' })
      expect(statuses).toEqual([status])
    }
  })

  test('waits as it is told and tries again when it was too fast', async () => {
    const { apiKey, keyId } = await createTenant(gateway.database.db)
    await gateway.database.db.sql`
      update api_key set requests_per_minute = 20 where id = ${keyId}`
    const { client, statuses } = createClient(apiKey)
    await Promise.all(Array.from({ length: 21 }, () => client.models.list()))
    expect(statuses.filter((status) => status === 200)).toHaveLength(21)
    expect(statuses.filter((status) => status === 429).length).toBe(1)
  })

  test('hears why a picture failed and that it cost nothing, once', async () => {
    gateway.finisher.mode = 'fail'
    const { apiKey } = await createTenant(gateway.database.db)
    const { client, statuses } = createClient(apiKey)
    const error = await client.images
      .generate({ model: 'glm-image', prompt: 'A sign' })
      .catch((thrown: unknown) => thrown)
    expect(error).toMatchObject({ status: 500, type: 'generation_failed', code: '1230' })
    expect(String(error)).toContain('Nothing was charged')
    expect(statuses).toEqual([500])
  })

  test('that loses its connection and tries again pays for one picture', async () => {
    gateway.finisher.mode = 'hold'
    const tenant = await createTenant(gateway.database.db)
    let isCut = false
    const client = new OpenAI({
      apiKey: tenant.apiKey,
      baseURL: `${gateway.url}/v1`,
      fetch: async (input, init) => {
        if (isCut) return fetch(input, init)
        isCut = true
        // The first call reaches the gateway, which makes the job; then the line is cut.
        const cut = new AbortController()
        const lost = fetch(input, { ...init, signal: cut.signal })
        const jobId = await until(async () => (await listJobs(tenant.orgId))[0])
        cut.abort()
        await lost.catch(() => {})
        await gateway.finisher.finish(jobId)
        throw new TypeError('connection lost')
      },
    })
    const answer = await client.images.generate({ model: 'glm-image', prompt: 'A sign' })
    const jobs = await listJobs(tenant.orgId)
    expect(jobs).toHaveLength(1)
    expect(answer).toMatchObject({ id: jobs[0], cost: '0.015000' })
  })
})

async function listJobs(orgId: string): Promise<string[]> {
  const rows = await gateway.database.db.sql<{ id: string }[]>`
    select id from job where org_id = ${orgId}`
  return rows.map(({ id }) => id)
}

async function until<T>(look: () => Promise<T | undefined>): Promise<T> {
  for (;;) {
    const found = await look()
    if (found !== undefined) return found
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
