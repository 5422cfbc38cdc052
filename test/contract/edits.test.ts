import { createHash } from 'node:crypto'
import sharp from 'sharp'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { announceModel } from '../../db/models.ts'
import { checkBooks } from '../support/books.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { Answer, CallOptions, Runtime, TestGateway } from '../support/gateway.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

const RUNTIMES: Runtime[] = ['node', 'workerd']
const PATH = '/v1/images/edits'

async function picture(width = 640, height = 640, colour = '#36c'): Promise<Buffer> {
  return sharp({ create: { width, height, channels: 3, background: colour } })
    .png()
    .toBuffer()
}

function form(fields: Record<string, string>, ...pictures: Buffer[]): FormData {
  const data = new FormData()
  for (const bytes of pictures) {
    data.append(
      pictures.length === 1 ? 'image' : 'image[]',
      new File([new Uint8Array(bytes)], 'a.bin'),
    )
  }
  for (const [name, value] of Object.entries(fields)) data.append(name, value)
  return data
}

const sha256 = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')

describe.each(RUNTIMES)('edits on %s', (runtime) => {
  let gateway: TestGateway
  let tenant: Tenant
  let red: Buffer
  let blue: Buffer

  beforeAll(async () => {
    gateway = await startTestGateway({ runtime, env: { SYNC_WAIT_SECONDS: '5' } })
    tenant = await createTenant(gateway.database.db)
    red = await picture(1040, 1040, '#c00')
    blue = await picture(600, 800, '#00c')
  })
  afterAll(async () => {
    expect(await checkBooks(gateway.database.db)).toEqual([])
    await gateway.close()
  })
  afterEach(async () => {
    gateway.finisher.mode = 'draw'
    await takeInputs()
  })

  const edit = (body: unknown, options: CallOptions = {}): Promise<Answer> =>
    gateway.call('POST', PATH, { key: tenant.apiKey, body, ...options })
  const post = (path: string, body: unknown, options: CallOptions = {}): Promise<Answer> =>
    gateway.call('POST', path, { key: tenant.apiKey, body, ...options })
  const get = (path: string) => gateway.call('GET', path, { key: tenant.apiKey })

  /** Empties the store of inputs. @returns how many there were: jobs on Node, pictures on Workers */
  const takeInputs = () =>
    gateway.objects.removeOldInputs({ before: new Date(Date.now() + 86_400_000), limit: 1_000 })

  async function jobsOf({ orgId }: Tenant): Promise<string[]> {
    const rows = await gateway.database.db.sql<{ id: string }[]>`
      select id from job where org_id = ${orgId}`
    return rows.map(({ id }) => id)
  }

  async function heldOf({ orgId }: Tenant): Promise<bigint> {
    const [row] = await gateway.database.db.sql<{ held: bigint }[]>`
      select held_micros as held from budget where scope_id = ${orgId} and kind = 'balance'`
    return row?.held ?? -1n
  }

  describe('by form', () => {
    test('a picture is taken in, named with its job, drawn in its own size, billed once', async () => {
      const answer = await edit(
        form(
          { prompt: 'Make the sky green', background: 'auto', user: 'u', input_fidelity: 'high' },
          red,
        ),
      )
      expect(answer.status).toBe(200)
      expect(answer.body).toMatchObject({
        size: '1056x1056',
        cost: '0.015000',
        billed: true,
        ignored_fields: ['background', 'input_fidelity', 'user'],
      })
      const job = await get(`/v1/jobs/${answer.body.id}`)
      expect(job.body.inputs).toEqual([
        {
          index: 0,
          sha256: sha256(red),
          size_bytes: red.length,
          content_type: 'image/png',
          width: 1040,
          height: 1040,
        },
      ])
      expect(await takeInputs()).toBe(1)
    })

    test('the worker finds each picture by place and checksum', async () => {
      gateway.finisher.mode = 'hold'
      const { body } = await edit(
        form({ prompt: 'Join them', size: '1024x1024', n: '2' }, blue, red),
      )
      const { task_id: jobId } = body
      const { body: job } = await get(`/v1/jobs/${jobId}`)
      expect(job).toMatchObject({ n: 2, size: '1024x1024', billing: { held: '0.030000' } })
      for (const [idx, bytes] of [blue, red].entries()) {
        const { size_bytes: sizeBytes, ...image } = job.inputs[idx]
        const place = { jobId, idx, image: { ...image, sizeBytes, format: 'png' as const } }
        expect((await gateway.store.readInput(place))?.length).toBe(bytes.length)
        expect(await gateway.store.readInput({ ...place, idx: 1 - idx })).toBe(null)
      }
    })

    test('fields may stand before or behind the pictures', async () => {
      const before = new FormData()
      before.append('prompt', 'Fields first')
      before.append('size', '1024x1024')
      before.append('image', new File([new Uint8Array(red)], 'a.png'))
      expect((await edit(before)).body).toMatchObject({ size: '1024x1024' })
    })

    test('two equal uploads at once under one idempotency key are one job, with one set of pictures', async () => {
      gateway.finisher.mode = 'hold'
      const own = await createTenant(gateway.database.db)
      const options = { key: own.apiKey, headers: { 'idempotency-key': 'twice' } }
      const send = () => edit(form({ prompt: 'Once' }, red), options)
      const answers = await Promise.all([send(), send()])
      const ids = new Set(answers.map(({ body }) => body.task_id))
      expect([...ids]).toEqual(await jobsOf(own))
      await expect.poll(takeInputs).toBe(1)
    })

    test('a repeat needs neither store nor money; with other pictures it is refused', async () => {
      const own = await createTenant(gateway.database.db, { org: { creditMicros: 15_000n } })
      const options = { key: own.apiKey, headers: { 'idempotency-key': 'again' } }
      const first = await edit(form({ prompt: 'Again' }, red, blue), options)
      expect(first.status).toBe(200)
      await takeInputs()
      const again = await edit(form({ prompt: 'Again' }, red, blue), options)
      expect([again.body.id, again.headers.get('idempotent-replayed')]).toEqual([
        first.body.id,
        'true',
      ])
      for (const other of [form({ prompt: 'Again' }, blue, red), form({ prompt: 'Again' }, red)]) {
        const refused = await edit(other, options)
        expect([refused.status, refused.body.error.type]).toEqual([422, 'idempotency_mismatch'])
      }
      expect(await takeInputs()).toBe(0)
    })

    test.each<[string, number, string, Record<string, string>]>([
      ['no prompt', 400, 'prompt', {}],
      ['a size that is not offered', 400, 'size', { prompt: 'x', size: '1000x1000' }],
      ['an unknown model', 400, 'model', { prompt: 'x', model: 'dall-e-2' }],
      ['a number that is none', 400, 'n', { prompt: 'x', n: 'two' }],
      ['too many pictures to draw', 400, 'n', { prompt: 'x', n: '11' }],
      ['streaming', 400, 'stream', { prompt: 'x', stream: 'true' }],
      ['a mask', 400, 'mask', { prompt: 'x', mask: 'data' }],
      ['an unknown format', 400, 'output_format', { prompt: 'x', output_format: 'gif' }],
      ['a prompt that is too long', 400, 'prompt', { prompt: 'x'.repeat(8_001) }],
      ['a field that is too long', 413, 'prompt', { prompt: 'x'.repeat(70_000) }],
    ])('%s: refused by name, and nothing is kept', async (_, status, param, fields) => {
      const own = await createTenant(gateway.database.db)
      const answer = await edit(form(fields, red), { key: own.apiKey })
      expect([answer.status, answer.body.error.param]).toEqual([status, param])
      expect(await takeInputs()).toBe(0)
      expect([await jobsOf(own), await heldOf(own)]).toEqual([[], 0n])
    })

    test('no picture, and no form at all', async () => {
      const bare = await edit(form({ prompt: 'x' }))
      expect([bare.status, bare.body.error]).toMatchObject([
        400,
        { type: 'missing_field', param: 'image' },
      ])
      const json = await edit({ prompt: 'x' })
      expect([json.status, json.body.error.type]).toEqual([415, 'unsupported_media_type'])
    })

    test('without money or with too many open jobs: refused before anything is stored', async () => {
      const poor = await createTenant(gateway.database.db, { org: { creditMicros: 14_999n } })
      const short = await createTenant(gateway.database.db, { team: { monthLimitMicros: 29_999n } })
      const busy = await createTenant(gateway.database.db, { key: { maxInflight: 0 } })
      const frozen = await createTenant(gateway.database.db)
      await gateway.database.db.sql`
        update org set frozen_at = now(), frozen_reason = 'dispute' where id = ${frozen.orgId}`
      for (const [own, status, type] of [
        [poor, 402, 'insufficient_credit'],
        [short, 403, 'budget_exceeded'],
        [busy, 429, 'too_many_inflight'],
        [frozen, 402, 'org_frozen'],
      ] as const) {
        const answer = await edit(form({ prompt: 'x', n: '2' }, red), { key: own.apiKey })
        expect([answer.status, answer.body.error.type]).toEqual([status, type])
      }
      expect(await takeInputs()).toBe(0)
    })
  })

  describe('by JSON', () => {
    const data = (bytes: Buffer) => ({ data: bytes.toString('base64') })

    test('pictures come as base 64, as data: URLs, and from an earlier job, which may then be deleted', async () => {
      const first = await edit(form({ prompt: 'First' }, red))
      const source = await get(`/v1/jobs/${first.body.id}`)
      gateway.finisher.mode = 'hold'
      const images = [
        data(blue),
        { data: `data:image/png;base64,${red.toString('base64')}` },
        { job: first.body.id },
      ]
      const options = { headers: { 'idempotency-key': `native ${runtime}` } }
      const made = await post('/v1/jobs', { prompt: 'Second', images }, options)
      expect(made.status).toBe(201)
      const sums = [sha256(blue), sha256(red), source.body.outputs[0].sha256]
      expect(made.body.inputs.map((input: Answer['body']) => input.sha256)).toEqual(sums)
      expect(made.body.size).toBe('1024x1376')
      const removed = await gateway.call('DELETE', `/v1/jobs/${first.body.id}`, {
        key: tenant.apiKey,
      })
      expect(removed.status).toBe(200)
      const { size_bytes: sizeBytes, ...image } = made.body.inputs[2]
      const place = {
        jobId: made.body.id,
        idx: 2,
        image: { ...image, sizeBytes, format: 'png' as const },
      }
      expect((await gateway.store.readInput(place))?.length).toBe(sizeBytes)
      // The picture is gone, and the call that used it is still known.
      const again = await post('/v1/jobs', { prompt: 'Second', images }, options)
      expect([again.status, again.body.id]).toEqual([200, made.body.id])
      const late = await post('/v1/jobs', { prompt: 'Third', images: [{ job: first.body.id }] })
      expect([late.status, late.body.error.param]).toEqual([400, 'images[0].job'])
    })

    test("an unknown job, a stranger's, an unfinished one, and a picture that it does not have: named", async () => {
      const stranger = await createTenant(gateway.database.db)
      const theirs = await post('/v1/images/generations', { prompt: 'x' }, { key: stranger.apiKey })
      const mine = await post('/v1/images/generations', { prompt: 'x' })
      gateway.finisher.mode = 'hold'
      const open = await post('/v1/jobs', { prompt: 'x' })
      for (const input of [
        { job: 'job_01aaaaaaaaaaaaaaaaaaaaaaaa' },
        { job: theirs.body.id },
        { job: open.body.id },
        { job: mine.body.id, index: 1 },
      ]) {
        const answer = await post('/v1/jobs', { prompt: 'x', images: [data(red), input] })
        expect([answer.status, answer.body.error.param]).toEqual([400, 'images[1].job'])
      }
      expect(await takeInputs()).toBe(0)
    })

    test.each([
      ['an address', 'images[0].data', [{ data: 'https://example.com/a.png' }]],
      ['text', 'images[0].data', [{ data: Buffer.from('hello, hello, hello').toString('base64') }]],
      ['neither data nor job', 'images[0]', [{}]],
      ['both', 'images[0]', [{ data: 'aaaa', job: 'job_1' }]],
      ['an index without a job', 'images[0].index', [{ data: 'aaaa', index: 1 }]],
      ['an unknown field', 'url', [{ url: 'https://example.com/a.png' }]],
      ['none', 'images', []],
      ['seventeen', 'images', Array.from({ length: 17 }, () => ({ data: 'aaaa' }))],
    ])('%s: refused by name', async (_, param, images) => {
      const answer = await post('/v1/jobs', { prompt: 'x', images })
      expect([answer.status, answer.body.error.param]).toEqual([400, param])
      expect(await takeInputs()).toBe(0)
    })

    test('a body of several megabytes is taken, one above its limit is not', async () => {
      gateway.finisher.mode = 'hold'
      const noise = await sharp(
        Buffer.from(Array.from({ length: 1_200 * 1_200 * 3 }, (_, at) => (at * 7_919) >> 3)),
        {
          raw: { width: 1_200, height: 1_200, channels: 3 },
        },
      )
        .png({ compressionLevel: 0 })
        .toBuffer()
      const large = await post('/v1/jobs', { prompt: 'x', images: [data(noise)] })
      expect(large.status).toBe(201)
      const above = await post('/v1/jobs', { prompt: 'x'.repeat(16_777_216) })
      expect([above.status, above.body.error.type]).toEqual([413, 'payload_too_large'])
    })
  })

  test.each([
    [
      'one more than the checkpoint takes',
      { max_count: 2 },
      'image[2]',
      'at most 2 pictures are taken',
    ],
    ['one, where the checkpoint takes none', null, 'image[0]', 'no pictures are taken'],
  ])('%s: refused by field', async (_, images, param, rule) => {
    const own = await startTestGateway({ runtime })
    const caller = await createTenant(own.database.db)
    await announceModel(own.database.db, { ...PUBLISHED_MODEL, images })
    const answer = await own.call('POST', PATH, {
      key: caller.apiKey,
      body: form({ prompt: 'x' }, red, blue, red),
    })
    expect([answer.status, answer.body.error.param]).toEqual([400, param])
    expect(answer.body.error.message).toBe(`${param}: ${rule}.`)
    await own.close()
  })

  describe('an end of the job', () => {
    test.each(['cancel', 'delete'])('by %s takes its pictures with it', async (how) => {
      gateway.finisher.mode = how === 'cancel' ? 'hold' : 'draw'
      const made = await post('/v1/jobs', {
        prompt: 'x',
        images: [{ data: red.toString('base64') }],
      })
      const path = `/v1/jobs/${made.body.id}`
      if (how === 'cancel') {
        expect((await post(`${path}/cancel`, undefined)).body.outcome).toBe('canceled')
      } else {
        await expect.poll(async () => (await get(path)).body.state).toBe('succeeded')
        await gateway.call('DELETE', path, { key: tenant.apiKey })
        expect((await get(path)).body).toMatchObject({ inputs: [], prompt: null })
      }
      const place = {
        jobId: made.body.id,
        idx: 0,
        image: { sha256: sha256(red), sizeBytes: 0, format: 'png' as const, width: 1, height: 1 },
      }
      await expect.poll(() => gateway.store.readInput(place)).toBe(null)
      expect(await takeInputs()).toBe(0)
    })

    test('the cron of the gateway leaves young pictures and takes those without a job after two days', async () => {
      gateway.finisher.mode = 'hold'
      await post('/v1/jobs', { prompt: 'x', images: [{ data: red.toString('base64') }] })
      const twoDaysAgo = new Date(Date.now() - 2 * 86_400_000)
      expect(await gateway.objects.removeOldInputs({ before: twoDaysAgo, limit: 10 })).toBe(0)
      const image = {
        sha256: sha256(red),
        sizeBytes: red.length,
        format: 'png' as const,
        width: 1,
        height: 1,
      }
      const old = oldJobId(3)
      await gateway.objects.putInput({ jobId: old, idx: 0, image, bytes: red })
      expect(await gateway.objects.removeOldInputs({ before: twoDaysAgo, limit: 10 })).toBe(1)
      expect(await gateway.store.readInput({ jobId: old, idx: 0, image })).toBe(null)
      expect(await takeInputs()).toBe(1)
    })
  })
})

const PUBLISHED_MODEL = {
  id: 'glm-image',
  weightsHash: 'abc',
  notice: null,
  size: {
    default: '1280x1280',
    recommended: ['1280x1280'],
    min_side: 1024,
    max_side: 2048,
    multiple_of: 32,
    max_pixels: 4_194_304,
  },
  steps: 50,
  guidanceScale: 1.5,
}

/** An id as it was made so many days ago. */
function oldJobId(days: number): string {
  const alphabet = '0123456789abcdefghjkmnpqrstvwxyz'
  let time = ''
  for (let rest = Date.now() - days * 86_400_000; time.length < 10; rest = Math.floor(rest / 32)) {
    time = alphabet.charAt(rest % 32) + time
  }
  return `job_${time}${'0'.repeat(16)}`
}
