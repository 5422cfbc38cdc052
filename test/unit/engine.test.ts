import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { rename } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { EngineError, startEngine } from '../../gpu-worker/engine.ts'
import type { Engine } from '../../gpu-worker/engine.ts'
import type { LoadProgress } from '../../gpu-worker/pipeline/glm-image.ts'
import type { ImageRequest, Progress } from '../../gpu-worker/pipeline/image-request.ts'
import { createCheckpointCopies } from '../support/checkpoints.ts'
import { drawPicture } from '../support/pictures.ts'

const MODEL_DIR = fileURLToPath(new URL('../fixtures/checkpoint', import.meta.url))
const REQUEST: ImageRequest = {
  prompt: "A poster with 'Grand Opening'",
  width: 64,
  height: 96,
  seed: 7,
  steps: 3,
  format: 'png',
}

const outcomeOf = (call: Promise<unknown>): Promise<unknown> =>
  call.then(
    () => 'a picture',
    (error: unknown) => error,
  )

describe('the engine', () => {
  let engine: Engine
  beforeAll(async () => {
    engine = await startEngine({ modelDir: MODEL_DIR, threads: 1 })
  })
  afterAll(() => engine.close())

  test('the same request gives the same bytes, another seed gives others', async () => {
    const first = await engine.generate(REQUEST)
    const second = await engine.generate(REQUEST)
    const other = await engine.generate({ ...REQUEST, seed: 8 })
    expect(second.sha256).toBe(first.sha256)
    expect(Buffer.from(second.bytes).equals(Buffer.from(first.bytes))).toBe(true)
    expect(other.sha256).not.toBe(first.sha256)
    expect(first).toMatchObject({ width: 64, height: 96, seed: 7, steps: 3, guidanceScale: 1.5 })
  })

  test('progress goes through the stages in order and never falls', async () => {
    const seen: Progress[] = []
    await engine.generate(REQUEST, { onProgress: (progress) => seen.push(progress) })
    const stages = ['tokens', 'glyph', 'denoise', 'decode', 'encode']
    expect([...new Set(seen.map((progress) => progress.stage))]).toEqual(stages)
    const keys = seen.map(({ stage, step }) => stages.indexOf(stage) * 1e6 + step)
    expect(keys).toEqual(keys.toSorted((a, b) => a - b))
    for (const stage of stages) {
      const last = seen.findLast((progress) => progress.stage === stage)!
      expect(last.step).toBe(last.total)
    }
  })

  test.each(['tokens', 'denoise'] as const)(
    'an abort in stage %s ends the call as canceled',
    async (stage) => {
      const controller = new AbortController()
      const outcome = await outcomeOf(
        engine.generate(
          { ...REQUEST, width: 512, height: 512, steps: 20 },
          {
            signal: controller.signal,
            onProgress: (progress) => {
              if (progress.stage === stage && progress.step > 0) controller.abort()
            },
          },
        ),
      )
      expect(outcome).toMatchObject({ code: 'canceled', retryable: false })
      const pid = engine.pid
      expect((await engine.generate(REQUEST)).width).toBe(64)
      expect(engine.pid).toBe(pid)
    },
  )

  test('a signal that is aborted already starts nothing', async () => {
    const outcome = await outcomeOf(engine.generate(REQUEST, { signal: AbortSignal.abort() }))
    expect(outcome).toMatchObject({ code: 'canceled' })
  })

  test('a killed process fails the running call as retryable and the next call works', async () => {
    const before = await engine.generate(REQUEST)
    const pid = engine.pid!
    let isKilled = false
    const outcome = await outcomeOf(
      engine.generate(REQUEST, {
        onProgress: () => {
          if (!isKilled) process.kill(pid, 'SIGKILL')
          isKilled = true
        },
      }),
    )
    expect(outcome).toBeInstanceOf(EngineError)
    expect(outcome).toMatchObject({ code: 'engine_crashed', retryable: true })
    expect((await engine.generate(REQUEST)).sha256).toBe(before.sha256)
    expect(engine.pid).not.toBe(pid)
  })

  test('a process that died while idle is replaced at the next call', async () => {
    const pid = engine.pid!
    process.kill(pid, 'SIGKILL')
    const outcome = await outcomeOf(engine.generate(REQUEST))
    // The kill may be noticed before the call or during it; after that the engine has to work.
    if (outcome !== 'a picture') expect(outcome).toMatchObject({ code: 'engine_crashed' })
    expect((await engine.generate(REQUEST)).width).toBe(64)
    expect(engine.pid).not.toBe(pid)
  })

  test('a second call at the same time is refused and the first is not harmed', async () => {
    const first = engine.generate(REQUEST)
    expect(await outcomeOf(engine.generate(REQUEST))).toMatchObject({ code: 'engine_busy' })
    expect((await first).width).toBe(64)
  })

  test('an error thrown by the progress hook is the outcome and the engine stays usable', async () => {
    const boom = new Error('boom')
    const outcome = await outcomeOf(
      engine.generate(REQUEST, {
        onProgress: () => {
          throw boom
        },
      }),
    )
    expect(outcome).toBe(boom)
    expect((await engine.generate(REQUEST)).width).toBe(64)
  })

  test.each<[string, string, Partial<ImageRequest>]>([
    ['prompt', 'blank', { prompt: '  ' }],
    ['prompt', 'too long', { prompt: 'x'.repeat(32_001) }],
    ['prompt', 'with too much quoted text', { prompt: `'${'x'.repeat(2_000)}' `.repeat(5) }],
    ['width', 'off the grid', { width: 65 }],
    ['width', 'too large', { width: 4096 }],
    ['height', 'too small', { height: 32 }],
    ['height', 'not a number', { height: Number.NaN }],
    ['seed', 'negative', { seed: -1 }],
    ['seed', 'too large', { seed: 2 ** 32 }],
    ['seed', 'fractional', { seed: 1.5 }],
    ['steps', 'zero', { steps: 0 }],
    ['steps', 'too many', { steps: 101 }],
    ['guidance_scale', 'not a number', { guidanceScale: Number.NaN }],
    ['guidance_scale', 'too large', { guidanceScale: 21 }],
    ['format', 'unknown', { format: 'gif' as 'png' }],
  ])('%s %s is refused by name', async (field, _case, change) => {
    const outcome = await outcomeOf(engine.generate({ ...REQUEST, ...change }))
    expect(outcome).toMatchObject({ code: 'invalid_request', retryable: false, field })
    expect((outcome as Error).message).toContain(field)
  })

  describe('with condition images', () => {
    const edit = async (): Promise<ImageRequest> => ({
      prompt: "Write 'Sale' on it",
      images: [await drawPicture(1, { width: 96, height: 64 })],
      seed: 7,
      steps: 2,
      format: 'png',
    })

    test('the bytes of the images arrive whole, from a part of a larger buffer too', async () => {
      const request = await edit()
      const file = request.images![0]!
      const larger = new Uint8Array(file.length + 200).fill(7)
      larger.set(file, 100)
      const part = larger.subarray(100, 100 + file.length)
      const made = await engine.generate(request)
      expect(made).toMatchObject({ width: 96, height: 64, steps: 2, tokenCount: 6 })
      expect((await engine.generate({ ...request, images: [part] })).sha256).toBe(made.sha256)
      const other = await drawPicture(2, { width: 96, height: 64 })
      expect((await engine.generate({ ...request, images: [other] })).sha256).not.toBe(made.sha256)
    })

    test('progress begins with the images and never falls', async () => {
      const seen: Progress[] = []
      await engine.generate(await edit(), { onProgress: (progress) => seen.push(progress) })
      const stages = ['images', 'tokens', 'glyph', 'denoise', 'decode', 'encode']
      expect([...new Set(seen.map((progress) => progress.stage))]).toEqual(stages)
      const keys = seen.map(({ stage, step }) => stages.indexOf(stage) * 1e6 + step)
      expect(keys).toEqual(keys.toSorted((a, b) => a - b))
      expect(seen.find(({ stage }) => stage === 'tokens')?.step).toBe(0)
    })

    test.each(['images', 'tokens', 'denoise'] as const)(
      'an abort in stage %s ends the call as canceled, and the engine goes on',
      async (stage) => {
        const images = [await drawPicture(1, { width: 1024, height: 1024 })]
        const controller = new AbortController()
        const outcome = await outcomeOf(
          engine.generate(
            { ...(await edit()), images, width: 512, height: 512, steps: 20 },
            {
              signal: controller.signal,
              onProgress: (progress) => {
                if (progress.stage === stage) controller.abort()
              },
            },
          ),
        )
        expect(outcome).toMatchObject({ code: 'canceled', retryable: false })
        const pid = engine.pid
        expect((await engine.generate(await edit())).width).toBe(96)
        expect(engine.pid).toBe(pid)
      },
    )

    test('a file that is no picture is refused by its number', async () => {
      const request = await edit()
      const images = [...request.images!, Buffer.from('no picture')]
      expect(await outcomeOf(engine.generate({ ...request, images }))).toMatchObject({
        code: 'invalid_request',
        retryable: false,
        field: 'images',
        message: 'images[1] must be a PNG, JPEG or WebP file',
      })
    })

    test('more bytes than a message takes are refused before they are sent', async () => {
      const images = [new Uint8Array(100 * 2 ** 20), new Uint8Array(30 * 2 ** 20)]
      expect(await outcomeOf(engine.generate({ ...(await edit()), images }))).toMatchObject({
        code: 'invalid_request',
        field: 'images',
        message: 'images must have at most 134217728 bytes together, not 136314880',
      })
      expect((await engine.generate(REQUEST)).width).toBe(64)
    })
  })

  test.each(['png', 'webp', 'jpeg', 'avif'] as const)(
    '%s files carry their signature',
    async (format) => {
      const { bytes, contentType } = await engine.generate({ ...REQUEST, format, steps: 1 })
      const head = Buffer.from(bytes).subarray(0, 12).toString('latin1')
      const signatures = {
        png: /^\x89PNG/,
        webp: /^RIFF....WEBP/s,
        jpeg: /^\xff\xd8/,
        avif: /ftypavif/,
      }
      expect(head).toMatch(signatures[format])
      expect(contentType).toBe(`image/${format}`)
    },
  )
})

test('a process that does not react to a cancel is killed and the call counts as canceled', async () => {
  const engine = await startEngine({ modelDir: MODEL_DIR, threads: 1, cancelTimeoutMs: 100 })
  const pid = engine.pid!
  const controller = new AbortController()
  const outcome = await outcomeOf(
    engine.generate(REQUEST, {
      signal: controller.signal,
      onProgress: () => {
        process.kill(pid, 'SIGSTOP')
        controller.abort()
      },
    }),
  )
  expect(outcome).toMatchObject({ code: 'canceled' })
  expect((await engine.generate(REQUEST)).width).toBe(64)
  expect(engine.pid).not.toBe(pid)
  await engine.close()
})

test('a process that falls silent is killed with engine_timeout', async () => {
  const engine = await startEngine({ modelDir: MODEL_DIR, threads: 1, stallTimeoutMs: 500 })
  const pid = engine.pid!
  process.kill(pid, 'SIGSTOP')
  const outcome = await outcomeOf(engine.generate(REQUEST))
  expect(outcome).toMatchObject({ code: 'engine_timeout', retryable: true })
  await engine.close()
})

test('a closed engine refuses calls, ends a running one, and can be closed again', async () => {
  const engine = await startEngine({ modelDir: MODEL_DIR, threads: 1 })
  const running = outcomeOf(engine.generate({ ...REQUEST, width: 512, height: 512 }))
  await engine.close()
  await engine.close()
  expect(await running).toMatchObject({ code: 'engine_closed' })
  expect(await outcomeOf(engine.generate(REQUEST))).toMatchObject({ code: 'engine_closed' })
})

test('opening tells of the weights that are read and then of the graphs, after a crash too', async () => {
  const seen: LoadProgress[] = []
  const engine = await startEngine({
    modelDir: MODEL_DIR,
    threads: 1,
    onLoading: (progress) => void seen.push(progress),
  })
  const parts = () => [...new Set(seen.map(({ part }) => part))]
  expect(parts()).toEqual(['read', 'open'])
  const read = seen.findLast(({ part }) => part === 'read')!
  expect(read.done).toBe(read.total)
  expect(read.total).toBeGreaterThan(1_000_000)
  seen.length = 0
  process.kill(engine.pid!, 'SIGKILL')
  await outcomeOf(engine.generate(REQUEST))
  await outcomeOf(engine.generate(REQUEST))
  expect(parts()).toEqual(['read', 'open'])
  await engine.close()
})

test('a folder that is no checkpoint is refused with the file at fault', async () => {
  const outcome = await outcomeOf(startEngine({ modelDir: join(MODEL_DIR, 'vae') }))
  expect(outcome).toMatchObject({ code: 'model_invalid', retryable: false })
  expect((outcome as Error).message).toContain('vision_language_encoder/config.json')
})

const CUDA_LIBRARY =
  'node_modules/onnxruntime-node/bin/napi-v6/linux/x64/libonnxruntime_providers_cuda.so'

test.skipIf(existsSync(CUDA_LIBRARY))(
  'a card that cannot be used is refused for good, with the cure',
  async () => {
    const outcome = await outcomeOf(startEngine({ modelDir: MODEL_DIR, provider: 'cuda' }))
    expect(outcome).toMatchObject({ code: 'provider_unavailable', retryable: false })
    expect((outcome as Error).message).toMatch(
      /^provider cuda is not available: install onnxruntime's CUDA libraries \(see \.npmrc\)/,
    )
  },
)

test('asking for the card warns that it is not proven', async () => {
  const warnings: Error[] = []
  const onWarning = (warning: Error) => warnings.push(warning)
  process.on('warning', onWarning)
  await outcomeOf(startEngine({ modelDir: '/nowhere', provider: 'cuda' }))
  process.off('warning', onWarning)
  expect(warnings.map(({ message }) => message)).toContain(
    'provider cuda is not proven: this code has only run on processors',
  )
})

/** Processes that this one started and that have not ended. */
function childPids(): string[] {
  const list = readFileSync(`/proc/${process.pid}/task/${process.pid}/children`, 'utf8')
  return list.split(' ').filter((pid) => pid !== '')
}

describe('while a crashed process is being replaced', () => {
  /** An engine whose next process never gets past one of its files, and what lets the one after that through. */
  async function startStuck() {
    const copies = await createCheckpointCopies()
    const modelDir = await copies.copy(MODEL_DIR)
    const before = childPids()
    const engine = await startEngine({ modelDir, threads: 1 })
    const file = join(modelDir, 'vae/config.json')
    await rename(file, `${file}.kept`)
    // Whoever reads a pipe that nobody writes waits.
    execFileSync('mkfifo', [file])
    process.kill(engine.pid!, 'SIGKILL')
    while (childPids().length > before.length) await new Promise(setImmediate)
    const isStarting = async () => {
      while (childPids().length === before.length) await new Promise(setImmediate)
    }
    const heal = () => rename(`${file}.kept`, file)
    return { engine, before, isStarting, heal, remove: () => copies.remove() }
  }

  test('closing ends the starting process and the call', async () => {
    const { engine, before, isStarting, remove } = await startStuck()
    const outcome = outcomeOf(engine.generate(REQUEST))
    await isStarting()
    await engine.close()
    expect(childPids()).toEqual(before)
    expect(await outcome).toMatchObject({ code: 'engine_closed' })
    await remove()
  })

  test('an abort ends the starting process and the call, and the next call starts another', async () => {
    const { engine, before, isStarting, heal, remove } = await startStuck()
    const controller = new AbortController()
    const outcome = outcomeOf(engine.generate(REQUEST, { signal: controller.signal }))
    await isStarting()
    controller.abort()
    expect(await outcome).toMatchObject({ code: 'canceled' })
    expect(childPids()).toEqual(before)
    await heal()
    expect((await engine.generate(REQUEST)).width).toBe(64)
    await engine.close()
    await remove()
  })
})
