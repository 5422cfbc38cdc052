import { request as httpRequest } from 'node:http'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import sharp from 'sharp'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { createApp } from '../../edge/app.ts'
import { errorBody } from '../../edge/contract.ts'
import { createFileObjects } from '../../edge/node/file-objects.ts'
import type { NewInput } from '../../edge/objects.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { createTestDeps } from '../support/app.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

const CHUNK = 65_536
const MEGABYTE = 1_000_000
const BOUNDARY = 'a-boundary'
const encoder = new TextEncoder()

/** What a limit needs: a real PNG, which may be followed by any number of bytes. */
let png: Buffer
let database: TestDatabase
let folder: string
let tenant: Tenant
/** Inputs that the store was given, in order. */
let stored: NewInput[] = []

beforeAll(async () => {
  png = await sharp({ create: { width: 64, height: 64, channels: 3, background: '#36c' } })
    .png()
    .toBuffer()
  database = await createTestDatabase()
  folder = await mkdtemp(join(tmpdir(), 'glyphpress-inputs-'))
  tenant = await createTenant(database.db)
})
afterAll(async () => {
  await database.close()
  await rm(folder, { recursive: true })
})
afterEach(async () => {
  stored = []
  // Whatever became of the call, nothing of it is left.
  expect(await readdir(join(folder, 'inputs')).catch(() => [])).toEqual([])
  const [row] = await database.db.sql`
    select held_micros::int as held, (select count(*)::int from job) as jobs
      from budget where scope_id = ${tenant.orgId} and kind = 'balance'`
  expect(row).toEqual({ held: 0, jobs: 0 })
})

function headOf(name: string, isFile = true): Uint8Array {
  const file = isFile ? '; filename="a.png"\r\ncontent-type: image/png' : ''
  return encoder.encode(
    `--${BOUNDARY}\r\ncontent-disposition: form-data; name="${name}"${file}\r\n\r\n`,
  )
}
const LINE_END = encoder.encode('\r\n')
const END = encoder.encode(`--${BOUNDARY}--\r\n`)

function field(name: string, value: string): Uint8Array[] {
  return [headOf(name, false), encoder.encode(value), LINE_END]
}

/** A picture that its trailing bytes make as large as that; they are made while they are read. */
function* largePicture(name: string, sizeBytes: number): Generator<Uint8Array> {
  yield headOf(name)
  yield png
  for (let left = sizeBytes - png.length; left > 0; left -= CHUNK) {
    yield new Uint8Array(Math.min(left, CHUNK))
  }
  yield LINE_END
}

/** Sends a form piece by piece. @returns the answer, and how much of the form was asked for */
async function send(pieces: Iterable<Uint8Array>, headers: Record<string, string> = {}) {
  let readBytes = 0
  let isCanceled = false
  const iterator = pieces[Symbol.iterator]()
  const body = new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        const next = iterator.next()
        if (next.done) return controller.close()
        readBytes += next.value.length
        controller.enqueue(next.value)
      },
      cancel() {
        isCanceled = true
      },
    },
    { highWaterMark: 0 },
  )
  const objects = createFileObjects(folder)
  const app = createApp(
    createTestDeps(database.db, {
      objects: {
        ...objects,
        async putInput(input) {
          stored.push(input)
          await objects.putInput(input)
        },
      },
    }),
  )
  const response = await app.request('/v1/images/edits', {
    method: 'POST',
    headers: {
      authorization: `Bearer ${tenant.apiKey}`,
      'content-type': `multipart/form-data; boundary=${BOUNDARY}`,
      ...headers,
    },
    body,
    duplex: 'half',
  } as RequestInit)
  const { error } = errorBody.parse(await response.json())
  return {
    status: response.status,
    error,
    readBytes,
    isCanceled,
    connection: response.headers.get('connection'),
  }
}

describe('a form', () => {
  test('is refused by its declared length before a byte of it is read', async () => {
    const headers = { 'content-length': '100000001' }
    const answer = await send(largePicture('image', 100), headers)
    expect(answer).toMatchObject({
      status: 413,
      readBytes: 0,
      error: { type: 'payload_too_large' },
    })
  })

  test('with a picture that is too large is refused within a chunk of the limit, naming its place', async () => {
    const pieces = [...field('prompt', 'x'), ...largePicture('image', 30 * MEGABYTE)]
    const answer = await send(pieces)
    expect(answer).toMatchObject({ status: 413, isCanceled: true, connection: 'close' })
    expect(answer.error.message).toBe('Field 2 of the form is larger than 20000000 bytes.')
    expect(answer.readBytes).toBeGreaterThan(20 * MEGABYTE)
    expect(answer.readBytes).toBeLessThan(20 * MEGABYTE + 2 * CHUNK)
    expect(stored).toEqual([])
  })

  test('that is too large in all is refused within a chunk of the limit, and what it stored is removed', async () => {
    function* pieces() {
      for (let count = 0; count < 16; count++) yield* largePicture('image[]', 15 * MEGABYTE)
    }
    const answer = await send(pieces())
    expect(answer).toMatchObject({ status: 413, isCanceled: true })
    expect(answer.error.message).toBe('The form is larger than 100000000 bytes.')
    expect(answer.readBytes).toBeLessThan(100 * MEGABYTE + 3 * CHUNK)
    expect(stored).toHaveLength(6)
  })

  test('with a seventeenth picture is refused there', async () => {
    function* pieces() {
      yield* field('prompt', 'x')
      for (let count = 0; count < 40; count++) yield* largePicture('image[]', 1_000)
    }
    const answer = await send(pieces())
    expect(answer).toMatchObject({ status: 400, error: { param: 'image[16]' }, isCanceled: true })
    expect(answer.error.message).toBe('image[16]: at most 16 pictures are taken.')
    expect(stored).toHaveLength(16)
  })

  test('with too many fields is refused', async () => {
    const pieces = Array.from({ length: 100 }, (_, at) => field(`f${at}`, 'x')).flat()
    expect(await send(pieces)).toMatchObject({ status: 413, error: { type: 'payload_too_large' } })
  })

  test('with a mask is refused before the pictures behind it are read', async () => {
    const pieces = [headOf('mask'), png, LINE_END, ...largePicture('image', 10 * MEGABYTE)]
    const answer = await send(pieces)
    expect(answer).toMatchObject({ status: 400, error: { param: 'mask' } })
    expect(answer.readBytes).toBeLessThan(2 * CHUNK)
  })

  test.each([
    ['an unknown model', 'model', 'dall-e-2'],
    ['a size that is not offered', 'size', '1000x1000'],
    ['a number above the limit', 'n', '99'],
    ['streaming', 'stream', 'true'],
  ])(
    'with %s before its pictures is refused before the first is stored',
    async (_, name, value) => {
      const pictures = [...largePicture('image', 100_000), ...largePicture('image', 100_000)]
      const answer = await send([...field(name, value), ...pictures])
      expect(answer).toMatchObject({ status: 400, error: { param: name } })
      expect(stored).toEqual([])
    },
  )

  test('of a caller without money is not read at all', async () => {
    const paid = tenant
    tenant = await createTenant(database.db, { org: { creditMicros: 14_999n } })
    const answer = await send(largePicture('image', 10 * MEGABYTE))
    tenant = paid
    expect(answer).toMatchObject({ status: 402, readBytes: 0, connection: 'close' })
  })

  test.each<[string, (all: Uint8Array) => Uint8Array]>([
    ['before its last boundary', (all) => all.subarray(0, all.length - 8)],
    ['in a picture', (all) => all.subarray(0, all.length - 60)],
    ['in the headers of a field', (all) => all.subarray(0, 30)],
  ])('that ends %s is refused', async (_, cut) => {
    const all = Buffer.concat([...field('prompt', 'x'), ...largePicture('image', 1_000), END])
    const answer = await send([cut(all)])
    expect(answer).toMatchObject({ status: 400, error: { type: 'invalid_multipart' } })
  })

  test.each<[string, string]>([
    ['no boundary', 'multipart/form-data'],
    ['an endless boundary', `multipart/form-data; boundary=${'a'.repeat(71)}`],
    ['a boundary of other letters', 'multipart/form-data; boundary="ä"'],
    ['another boundary', 'multipart/form-data; boundary=other'],
  ])('whose content type names %s is refused', async (_, type) => {
    const answer = await send([...largePicture('image', 1_000), END], {
      'content-type': encodeURI(type).replaceAll('%20', ' ').replaceAll('%22', '"'),
    })
    expect(answer).toMatchObject({ status: 400, error: { type: 'invalid_multipart' } })
  })

  test.each<[string, string]>([
    ['no name', 'content-disposition: form-data'],
    ['a name that is no UTF-8', 'content-disposition: form-data; name="\xff"'],
    ['endless headers', `x: ${'x'.repeat(10_000)}`],
    [
      'a repeated prompt',
      `content-disposition: form-data; name="prompt"\r\n\r\nx\r\n--${BOUNDARY}\r\ncontent-disposition: form-data; name="prompt"`,
    ],
  ])('with a field of %s is refused', async (_, headers) => {
    const head = Buffer.from(`--${BOUNDARY}\r\n${headers}\r\n\r\nx\r\n`, 'latin1')
    expect((await send([head, END])).status).toBe(400)
  })

  test('whose sender breaks off leaves nothing', async () => {
    function* pieces() {
      yield* largePicture('image', 100_000)
      yield headOf('image')
      throw new Error('connection lost')
    }
    const answer = await send(pieces())
    expect(answer).toMatchObject({ status: 400, error: { type: 'invalid_multipart' } })
    expect(stored).toHaveLength(1)
  })
})

describe('a picture', () => {
  const width = (bytes: number) => {
    const bomb = Buffer.from(png)
    bomb.writeUInt32BE(bytes, 16)
    return bomb
  }
  const square = (side: number) => {
    const bomb = width(side)
    bomb.writeUInt32BE(side, 20)
    return bomb
  }

  test.each<[string, string, () => Buffer]>([
    ['of nothing', 'is empty', () => Buffer.alloc(0)],
    ['of text', 'must be a PNG, JPEG or WebP picture', () => Buffer.from('not a picture at all')],
    [
      'of SVG',
      'must be a PNG, JPEG or WebP picture',
      () => Buffer.from('<svg xmlns="http://www.w3.org/2000/svg"/>'),
    ],
    ['that claims a side of 16385', 'has a side above 16384 pixels', () => width(16_385)],
    [
      'that claims a side of 4 billion',
      'has a side above 16384 pixels',
      () => width(4_294_967_295),
    ],
    ['that claims 8001 x 8001', 'has more than 64000000 pixels', () => square(8_001)],
    ['of 15 rows', 'has a side below 16 pixels', () => square(15)],
    ['of 64 x 257', 'has one side more than 4 times as long as the other', () => width(257)],
  ])('%s is refused by field and rule', async (_, rule, make) => {
    const pieces = [
      ...field('prompt', 'x'),
      ...[png, make()].flatMap((bytes) => [headOf('image[]'), bytes, LINE_END]),
      END,
    ]
    const answer = await send(pieces)
    expect([answer.status, answer.error.param, answer.error.message]).toEqual([
      400,
      'image[1]',
      `image[1]: ${rule}.`,
    ])
  })
})

describe('a form over a connection', () => {
  let gateway: TestGateway
  let caller: Tenant
  beforeAll(async () => {
    gateway = await startTestGateway()
    caller = await createTenant(gateway.database.db)
  })
  afterAll(() => gateway.close())

  const inputs = () => readdir(join(gateway.folder, 'inputs')).catch(() => [])
  const headers = () => ({
    authorization: `Bearer ${caller.apiKey}`,
    'content-type': `multipart/form-data; boundary=${BOUNDARY}`,
  })
  const open = (more: Record<string, string> = {}) =>
    httpRequest(`${gateway.url}/v1/images/edits`, {
      method: 'POST',
      headers: { ...headers(), ...more },
    })

  test('that is cut in the middle leaves nothing in the store, no job and no hold', async () => {
    const call = open()
    call.on('error', () => {})
    for (const piece of [...largePicture('image[]', 200_000), ...largePicture('image[]', 100)])
      call.write(piece)
    call.write(headOf('image[]'))
    await expect.poll(inputs).toHaveLength(1)
    call.destroy()
    await expect.poll(inputs).toEqual([])
    const rows = await gateway.database.db.sql`
      select held_micros::int as held, (select count(*)::int from job) as jobs
        from budget where scope_id = ${caller.orgId} and kind = 'balance'`
    expect([...rows]).toEqual([{ held: 0, jobs: 0 }])
  })

  test('of an org that sends many at once is refused until one of them ends; those of others are taken', async () => {
    const slow = Array.from({ length: 4 }, () => open())
    for (const call of slow) {
      call.on('error', () => {})
      for (const piece of [...largePicture('image[]', 200), headOf('image[]')]) call.write(piece)
    }
    await expect.poll(inputs).toHaveLength(4)
    const form = () => {
      const data = new FormData()
      data.append('prompt', 'x')
      data.append('image', new File([new Uint8Array(png)], 'a.png'))
      return data
    }
    const send = (key: string) => gateway.call('POST', '/v1/images/edits', { key, body: form() })
    const refused = await send(caller.apiKey)
    expect([refused.status, refused.body.reason]).toEqual([429, 'concurrency'])
    const other = await createTenant(gateway.database.db)
    expect((await send(other.apiKey)).status).toBe(200)
    for (const call of slow) call.destroy()
    await expect.poll(async () => (await send(caller.apiKey)).status).toBe(200)
  })

  test('may come in pieces of any size, also split in its last boundary', async () => {
    const all = Buffer.concat([
      ...field('prompt', 'Pieces'),
      ...largePicture('image', 2_000),
      ...field('size', '1024x1024'),
      END,
    ])
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: all.length - 1 }), { maxLength: 6 }),
        async (cuts) => {
          const places = [
            0,
            ...new Set([...cuts, all.length - 2].toSorted((a, b) => a - b)),
            all.length,
          ]
          const pieces = places.slice(1).map((end, at) => all.subarray(places[at], end))
          const body = new ReadableStream<Uint8Array>({
            start(controller) {
              for (const piece of pieces) controller.enqueue(piece)
              controller.close()
            },
          })
          const init = { method: 'POST', headers: headers(), body, duplex: 'half' }
          const response = await fetch(`${gateway.url}/v1/images/edits`, init as RequestInit)
          expect(await response.json()).toMatchObject({ size: '1024x1024', billed: true })
        },
      ),
      { numRuns: 15 },
    )
  })

  test('that is refused early is answered, though its sender has more to send', async () => {
    const call = open({ 'content-length': String(50 * MEGABYTE) })
    call.on('error', () => {})
    const answered = new Promise<number>((resolve) => {
      call.on('response', (response) => resolve(response.statusCode ?? 0))
    })
    call.write(headOf('mask'))
    call.write(png)
    call.write(LINE_END)
    for (const piece of largePicture('image', MEGABYTE)) call.write(piece)
    expect(await answered).toBe(400)
    call.destroy()
  })
})
