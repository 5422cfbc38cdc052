import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { startEngine } from '../../gpu-worker/engine.ts'
import type { Engine } from '../../gpu-worker/engine.ts'
import type { ImageRequest, Progress } from '../../gpu-worker/pipeline/image-request.ts'
import { BACKENDS } from '../../gpu-worker/pipeline/session.ts'
import { drawPicture } from '../support/pictures.ts'

vi.setConfig({ testTimeout: 120_000 })

const MODEL_DIR = fileURLToPath(new URL('../fixtures/checkpoint', import.meta.url))
const SLOTS = 4

const request = (seed: number, changes: Partial<ImageRequest> = {}): ImageRequest => ({
  prompt: `A poster with '${'Grand Opening '.repeat(seed)}'`,
  width: 64 * (1 + (seed % 3)),
  height: 64 * (1 + (seed % 2)),
  seed,
  steps: 1 + seed,
  format: 'png',
  ...changes,
})

const outcomeOf = (call: Promise<{ sha256: string }>): Promise<unknown> =>
  call.then(
    ({ sha256 }) => sha256,
    (error: unknown) => error,
  )

/** Processes that this one started and that have not ended. */
function childCount(): number {
  const list = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8')
  return list.split(' ').filter((pid) => pid !== '').length
}

describe.each(BACKENDS)('an engine with four slots on %s', (backend) => {
  let engine: Engine
  let edit: ImageRequest
  beforeAll(async () => {
    engine = await startEngine({ modelDir: MODEL_DIR, threads: 2, slots: SLOTS, backend })
    const images = [await drawPicture(1, { width: 96, height: 64 })]
    edit = { prompt: "Write 'Sale' on it", images, seed: 9, steps: 2, format: 'webp' }
  })
  afterAll(() => engine.close())

  test('makes four pictures at once, edits too, with the bytes that each has alone', async () => {
    const requests = [request(1), request(2), edit, request(5, { width: 256, height: 256 })]
    const alone: unknown[] = []
    for (const own of requests) alone.push((await engine.generate(own)).sha256)
    const together = requests.map((own) => outcomeOf(engine.generate(own)))
    expect(await Promise.all(together)).toEqual(alone)
    const reversed = requests.toReversed().map((own) => outcomeOf(engine.generate(own)))
    expect((await Promise.all(reversed)).toReversed()).toEqual(alone)
  })

  test('writes the layout of one picture while another is painted', async () => {
    const seen: [name: string, progress: Progress][] = []
    const watch = (name: string) => ({
      onProgress: (progress: Progress) => void seen.push([name, progress]),
    })
    const painted = engine.generate(request(1, { steps: 60, width: 256, height: 256 }), watch('a'))
    let written: Promise<unknown> | undefined
    await vi.waitFor(() => expect(seen.at(-1)?.[1].stage).toBe('denoise'), { timeout: 60_000 })
    written = engine.generate(request(2, { width: 256, height: 256 }), watch('b'))
    await Promise.all([painted, written])
    const places = seen.map(([name, { stage }]) => `${name} ${stage}`)
    expect(places.indexOf('b tokens')).toBeLessThan(places.lastIndexOf('a denoise'))
    expect(places.lastIndexOf('a denoise')).toBeLessThan(places.indexOf('b denoise'))
  })

  test('leaves out one that is canceled while it is written, and its neighbours do not notice', async () => {
    const large = { width: 512, height: 512 }
    const requests = [request(1, large), request(2, large), request(3, large)]
    const alone: unknown[] = []
    for (const own of requests) alone.push((await engine.generate(own)).sha256)
    const controller = new AbortController()
    const pid = engine.pid
    const victim = engine.generate(request(4, large), {
      signal: controller.signal,
      onProgress: ({ stage, step }) => {
        if (stage === 'tokens' && step > 32) controller.abort()
      },
    })
    const others = requests.map((own) => outcomeOf(engine.generate(own)))
    expect(await outcomeOf(victim)).toMatchObject({ code: 'canceled' })
    expect(await Promise.all(others)).toEqual(alone)
    expect(engine.pid).toBe(pid)
  })

  test('refuses a bad request alone', async () => {
    const broken = { ...edit, images: [Buffer.from('no picture')] }
    const calls = [request(1), request(2, { width: 65 }), broken, request(3)]
    const outcomes = await Promise.all(calls.map((own) => outcomeOf(engine.generate(own))))
    expect(outcomes[0]).toMatch(/^[0-9a-f]{64}$/)
    expect(outcomes[1]).toMatchObject({ code: 'invalid_request', field: 'width' })
    expect(outcomes[2]).toMatchObject({ code: 'invalid_request', field: 'images' })
    expect(outcomes[3]).toMatch(/^[0-9a-f]{64}$/)
  })

  test('refuses a fifth call, and the four are not harmed', async () => {
    const four = [1, 2, 3, 4].map((seed) => outcomeOf(engine.generate(request(seed))))
    expect(await outcomeOf(engine.generate(request(5)))).toMatchObject({
      code: 'engine_busy',
      message: 'the engine is making 4 other pictures',
    })
    for (const outcome of await Promise.all(four)) expect(outcome).toMatch(/^[0-9a-f]{64}$/)
  })

  test('keeps one that must be alone apart from those before and after it', async () => {
    const events: string[] = []
    const follow = async (name: string, alone: boolean) => {
      let isIn = false
      const onProgress = () => {
        if (!isIn) events.push(`${name} begins`)
        isIn = true
      }
      await engine.generate(request(2), { alone, onProgress })
      events.push(`${name} ends`)
    }
    const calls = [follow('a', false), follow('b', false), follow('c', true), follow('d', false)]
    await Promise.all(calls)
    const at = (event: string) => events.indexOf(event)
    expect(at('c begins')).toBeGreaterThan(Math.max(at('a ends'), at('b ends')))
    expect(at('d begins')).toBeGreaterThan(at('c ends'))
  })

  test('fails all four when its process dies, and the one that waited for its turn goes on in another', async () => {
    const expected = (await engine.generate(request(2))).sha256
    const pid = engine.pid!
    let isKilled = false
    const onProgress = () => {
      if (!isKilled) process.kill(pid, 'SIGKILL')
      isKilled = true
    }
    const three = [1, 3, 4].map((seed) => outcomeOf(engine.generate(request(seed), { onProgress })))
    const waiting = outcomeOf(engine.generate(request(2), { alone: true }))
    for (const outcome of await Promise.all(three)) {
      expect(outcome).toMatchObject({ code: 'engine_crashed', retryable: true })
    }
    expect(await waiting).toBe(expected)
    expect(engine.pid).not.toBe(pid)
  })

  test('starts one process for all calls that find none', async () => {
    const pid = engine.pid!
    process.kill(pid, 'SIGKILL')
    await vi.waitFor(() => expect(() => process.kill(pid, 0)).toThrow('ESRCH'))
    const before = childCount()
    const calls = [1, 2, 3, 4].map((seed) => outcomeOf(engine.generate(request(seed))))
    for (const outcome of await Promise.all(calls)) expect(outcome).toMatch(/^[0-9a-f]{64}$/)
    expect(childCount()).toBe(before + 1)
  })
})
