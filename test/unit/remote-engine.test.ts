import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { openRemoteEngine } from '../../gpu-worker/remote-engine.ts'
import type { Engine } from '../../gpu-worker/engine.ts'
import { drawBase64, sendJson, startImageServer } from '../support/image-server.ts'
import type { ImageServer } from '../support/image-server.ts'

const DRAW = '/v1/images/generations'
const REQUEST = {
  prompt: "A sign that says 'OPEN'",
  width: 1088,
  height: 1024,
  seed: 7,
  format: 'webp',
} as const

let server: ImageServer
const engines: Engine[] = []
beforeEach(async () => {
  server = await startImageServer()
})
afterEach(async () => {
  for (const engine of engines.splice(0)) await engine.close()
  await server.close()
})

async function open(options: Partial<Parameters<typeof openRemoteEngine>[0]> = {}) {
  const engine = await openRemoteEngine({ url: server.url, startPauseMs: 5, ...options })
  engines.push(engine)
  return engine
}

describe('a picture from a server', () => {
  test('is asked for by OpenAI’s fields and encoded as the caller wants it', async () => {
    const engine = await open({ url: `${server.url}/v1/`, apiKey: 'secret' })
    const stages: string[] = []
    const onProgress = ({ stage, step }: { stage: string; step: number }) =>
      void stages.push(`${stage} ${step}`)
    const result = await engine.generate({ ...REQUEST, steps: 30 }, { onProgress })
    expect(server.asked).toEqual([
      {
        model: 'zai-org/GLM-Image',
        prompt: REQUEST.prompt,
        n: 1,
        size: '1088x1024',
        seed: 7,
        num_inference_steps: 30,
        guidance_scale: 1.5,
        response_format: 'b64_json',
        output_format: 'png',
      },
    ])
    expect([...server.keys]).toEqual(['Bearer secret'])
    expect(result).toMatchObject({ width: 1088, height: 1024, seed: 7, contentType: 'image/webp' })
    expect(createHash('sha256').update(result.bytes).digest('hex')).toBe(result.sha256)
    expect(engine.info).toMatchObject({
      model: 'glm-image',
      weightsHash: 'remote:zai-org/GLM-Image',
    })
    expect(stages).toEqual(['denoise 0', 'denoise 30'])
  })

  test('made from pictures is asked for by the form of an edit', async () => {
    const engine = await open()
    const picture = Buffer.from(await drawBase64(64, 64, 3), 'base64')
    const other = Buffer.from(await drawBase64(32, 96, 4), 'base64')
    let form: FormData | null = null
    server.instead.set('/v1/images/edits', (response, request) => {
      const body = Readable.toWeb(request) as ReadableStream<Uint8Array>
      const headers = { 'content-type': request.headers['content-type'] ?? '' }
      void new Response(body, { headers }).formData().then(async (parsed) => {
        form = parsed
        const b64_json = await drawBase64(1088, 1024, 1)
        sendJson(response, 200, { data: [{ b64_json }] })
      })
    })
    await engine.generate({ ...REQUEST, images: [picture, other] })
    const sent = form as unknown as FormData
    expect(sent.get('prompt')).toBe(REQUEST.prompt)
    expect(sent.get('size')).toBe('1088x1024')
    const files = sent.getAll('image') as File[]
    const bytes = await Promise.all(files.map((file) => file.arrayBuffer()))
    expect(bytes.map((part) => Buffer.from(part))).toEqual([picture, other])
  })

  test('made from pictures is refused for good by a server that offers none', async () => {
    const engine = await open()
    const picture = Buffer.from(await drawBase64(64, 64, 3), 'base64')
    await expect(engine.generate({ ...REQUEST, images: [picture] })).rejects.toMatchObject({
      code: 'invalid_request',
    })
  })

  test('is one at a time', async () => {
    const engine = await open()
    const first = engine.generate(REQUEST)
    await expect(engine.generate(REQUEST)).rejects.toMatchObject({ code: 'engine_busy' })
    await first
    await engine.generate(REQUEST)
  })

  test('is not asked for when the request breaks a rule of the model', async () => {
    const engine = await open()
    const wrong = { ...REQUEST, width: 1000 }
    await expect(engine.generate(wrong)).rejects.toMatchObject({
      code: 'invalid_request',
      field: 'width',
    })
    expect(server.asked).toEqual([])
  })

  test.each([
    [400, 'invalid_request', false],
    [422, 'invalid_request', false],
    [401, 'engine_unreachable', true],
    [429, 'engine_busy', true],
    [500, 'engine_failed', true],
    [503, 'engine_unreachable', true],
  ])('that is refused with %i is told as %s', async (status, code, retryable) => {
    const engine = await open()
    server.instead.set(DRAW, (response) => sendJson(response, status, { detail: 'why' }))
    await expect(engine.generate(REQUEST)).rejects.toMatchObject({
      code,
      retryable,
      message: expect.stringContaining('why'),
    })
  })

  test('of another size, that is no picture, or that is not there, is not taken', async () => {
    const engine = await open()
    const other = await drawBase64(1024, 1024, 1)
    const garbage = Buffer.from('no picture').toString('base64')
    const answers = [
      { data: [{ b64_json: other }] },
      { data: [{ b64_json: garbage }] },
      { data: [] },
      { data: [{ url: 'https://elsewhere.example/a.png' }] },
    ]
    for (const answer of answers) {
      server.instead.set(DRAW, (response) => sendJson(response, 200, answer))
      await expect(engine.generate(REQUEST)).rejects.toMatchObject({ code: 'engine_failed' })
    }
  })

  test('that breaks off, and a server that is gone, are the fault of the engine alone', async () => {
    const engine = await open()
    server.instead.set(DRAW, (response) => {
      response.writeHead(200, { 'content-length': '1000' }).write('{"data":')
      response.destroy()
    })
    const unreachable = { code: 'engine_unreachable', retryable: true }
    await expect(engine.generate(REQUEST)).rejects.toMatchObject(unreachable)
    await server.close()
    await expect(engine.generate(REQUEST)).rejects.toMatchObject(unreachable)
  })

  test('longer than any picture is not read to its end', async () => {
    const engine = await open()
    let sent = 0
    server.instead.set(DRAW, (response) => {
      const piece = Buffer.alloc(2 ** 20, 'a')
      response.writeHead(200)
      const push = (): void => {
        while (sent < 200 && !response.destroyed) {
          sent += 1
          if (!response.write(piece)) return void response.once('drain', push)
        }
        response.end()
      }
      push()
    })
    await expect(engine.generate(REQUEST)).rejects.toMatchObject({ code: 'engine_failed' })
    expect(sent).toBeLessThan(100)
  })

  test('that takes too long, is not wanted any more, or that nobody waits for, ends the call', async () => {
    const engine = await open({ pictureTimeoutMs: 200 })
    server.instead.set(DRAW, () => {})
    await expect(engine.generate(REQUEST)).rejects.toMatchObject({ code: 'engine_timeout' })
    const caller = new AbortController()
    const canceled = engine.generate(REQUEST, { signal: caller.signal })
    caller.abort()
    await expect(canceled).rejects.toMatchObject({ code: 'canceled' })
    const closed = engine.generate(REQUEST)
    void engine.close()
    await expect(closed).rejects.toMatchObject({ code: 'engine_closed' })
    await expect(engine.generate(REQUEST)).rejects.toMatchObject({ code: 'engine_closed' })
    // The first two reached the server, which is told that nobody listens.
    await expect.poll(() => server.hungUp).toBeGreaterThanOrEqual(1)
  })
})

describe('a server', () => {
  test('is waited for while it loads', async () => {
    let looks = 0
    server.instead.set('/health', (response) => sendJson(response, ++looks < 4 ? 503 : 200, {}))
    await open()
    expect(looks).toBe(4)
  })

  test('that never gets well is named with what it says', async () => {
    server.instead.set('/health', (response) => sendJson(response, 503, {}))
    await expect(open({ startTimeoutMs: 30 })).rejects.toMatchObject({
      code: 'engine_unreachable',
      message: expect.stringContaining('503'),
    })
  })

  test('without a health check and with a card in place of a list is known by its card', async () => {
    for (const path of ['/health', '/v1/models'])
      server.instead.set(path, (response) => sendJson(response, 404, {}))
    server.instead.set('/models', (response) => sendJson(response, 200, { model_path: '/m/GLM' }))
    expect((await open()).info.weightsHash).toBe('remote:/m/GLM')
  })

  test('that lacks the model is refused, and says what it has', async () => {
    await expect(open({ model: 'another' })).rejects.toMatchObject({
      code: 'model_invalid',
      message: expect.stringContaining('offers zai-org/GLM-Image'),
    })
  })

  test('is not waited for by one who has to leave', async () => {
    const leaving = new AbortController()
    server.instead.set('/health', (response, request) => {
      leaving.abort()
      void once(request, 'end').then(() => sendJson(response, 503, {}))
      request.resume()
    })
    await expect(open({ signal: leaving.signal })).rejects.toMatchObject({ code: 'canceled' })
  })
})
