import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { afterEach, describe, expect, test } from 'vitest'
import { createGraph } from '../../../gpu-worker/onnx/graph.ts'
import { countLiveHandles } from '../../../gpu-worker/onnxruntime/c-handles.ts'
import { loadCLibrary, requireVersion } from '../../../gpu-worker/onnxruntime/c-library.ts'
import { BACKENDS, openSession, runtimeVersion } from '../../../gpu-worker/pipeline/session.ts'

const CAPI = { backend: 'capi', threads: 1 } as const

/** y = x + x, and the shape of x. */
function buildDouble(): Uint8Array {
  const g = createGraph({ name: 'double', compute: 'float32' })
  const x = g.input('x', 'float32', ['rows', 2])
  g.output(g.op('Add', [x, x]), 'y', 'float32', ['rows', 2])
  g.output(g.op('Shape', [x]), 'shape', 'int64', [2])
  return g.toBytes()
}

/** Adds 1 to a number so many times: a run as long as it is told to be. */
function buildCounter(): Uint8Array {
  const g = createGraph({ name: 'counter', compute: 'float32' })
  const one = g.scalar(1, 'float32')
  const body = g.subgraph('body', (b) => {
    b.input('i', 'int64', [])
    const goesOn = b.input('goes_on', 'bool', [])
    const sum = b.input('sum', 'float32', [])
    b.output(goesOn, 'goes_on_out', 'bool', [])
    b.output(b.op('Add', [sum, one]), 'sum_out', 'float32', [])
  })
  const times = g.input('times', 'int64', [])
  g.output(g.op('Loop', [times, null, g.scalar(0, 'float32')], { body }), 'sum', 'float32', [])
  return g.toBytes()
}

const floats = (...values: number[]) => ({
  data: Float32Array.from(values),
  shape: [values.length / 2, 2],
})
const count = (value: number) => ({ data: BigInt64Array.of(BigInt(value)), shape: [] })

/** A run that would take minutes. */
const ENDLESS = { times: count(1e9) }

describe('a session by the C interface', () => {
  // Whatever a test does, nothing of the runtime is left behind.
  afterEach(() => expect(countLiveHandles()).toBe(0))

  test('gives results that are the caller’s: no later run changes them', async () => {
    const session = await openSession(buildDouble(), CAPI)
    const first = await session.run({ x: floats(1, 2) })
    const second = await session.run({ x: floats(3, 4, 5, 6) })
    const none = await session.run({ x: floats() })
    expect(first).toEqual({
      y: { data: Float32Array.of(2, 4), shape: [1, 2] },
      shape: { data: BigInt64Array.of(1n, 2n), shape: [2] },
    })
    expect(second['y']).toEqual({ data: Float32Array.of(6, 8, 10, 12), shape: [2, 2] })
    expect(none['y']).toEqual({ data: new Float32Array(0), shape: [0, 2] })
    await session.close()
  })

  test('reads a part of a larger array where it lies', async () => {
    const session = await openSession(buildDouble(), CAPI)
    const data = Float32Array.of(9, 9, 1, 2, 9).subarray(2, 4)
    const { y } = await session.run({ x: { data, shape: [1, 2] } }, ['y'])
    expect(y?.data).toEqual(Float32Array.of(2, 4))
    await session.close()
  })

  test('after errors it goes on, and holds no more than before', async () => {
    const session = await openSession(buildDouble(), CAPI)
    const before = countLiveHandles()
    await expect(session.run({ wrong: floats(1, 2) })).rejects.toThrow(/BindInput: .*wrong/)
    await expect(session.run({ x: floats(1, 2) }, ['wrong'])).rejects.toThrow(/wrong/)
    await expect(session.run({}, ['y'])).rejects.toThrow(/RunWithBinding: /)
    const misshapen = { x: { data: new Float32Array(3), shape: [1, 3] } }
    await expect(session.run(misshapen)).rejects.toThrow(/RunWithBinding: .*dimension/s)
    const short = { x: { data: new Float32Array(1), shape: [1, 2] } }
    await expect(session.run(short)).rejects.toThrow(/CreateTensorWithDataAsOrtValue: /)
    expect(countLiveHandles()).toBe(before)
    expect((await session.run({ x: floats(1, 2) }))['y']?.data).toEqual(Float32Array.of(2, 4))
    await session.close()
  })

  test('a graph that cannot be opened leaves nothing', async () => {
    await expect(openSession(new Uint8Array(10), CAPI)).rejects.toThrow(/protobuf/)
    const cuda = openSession(buildDouble(), { backend: 'capi', provider: 'cuda' })
    await expect(cuda).rejects.toThrow(/has no libonnxruntime_providers_cuda\.so/)
  })

  test('the event loop goes on during a run, and an abort ends the run within it', async () => {
    const session = await openSession(buildCounter(), CAPI)
    const controller = new AbortController()
    let turns = 0
    const timer = setInterval(() => {
      turns += 1
      if (turns === 5) controller.abort(new Error('enough'))
    }, 5)
    const run = session.run(ENDLESS, ['sum'], { signal: controller.signal })
    await expect(run).rejects.toMatchObject({ code: 'canceled', cause: new Error('enough') })
    clearInterval(timer)
    expect(turns).toBeGreaterThanOrEqual(5)
    const { sum } = await session.run({ times: count(7) })
    expect(sum?.data[0]).toBe(7)
    const started = session.run(ENDLESS, ['sum'], { signal: AbortSignal.abort() })
    await expect(started).rejects.toMatchObject({ code: 'canceled' })
    await session.close()
  })

  test('closing waits for the running run, and ends the later ones', async () => {
    const session = await openSession(buildCounter(), CAPI)
    const bound = session.bind({})
    const running = bound.run({ times: count(100_000) }, ['sum'])
    bound.release()
    const closing = session.close()
    await expect(session.run({ times: count(1) })).rejects.toThrow('the session is closed')
    expect((await running)['sum']?.data[0]).toBe(100_000)
    await closing
    await expect(bound.run({ times: count(1) }, ['sum'])).rejects.toThrow(/closed/)
    await session.close()
  })

  test('garbage collection takes nothing that native code still uses', async () => {
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const session = await openSession(buildCounter(), CAPI)
    for (let round = 0; round < 5; round += 1) {
      const run = session.run({ times: count(20_000) })
      collect()
      expect((await run)['sum']?.data[0]).toBe(20_000)
      collect()
    }
    await session.close()
  })

  test('runs of one binding keep what they share, and each has what is its own', async () => {
    const g = createGraph({ name: 'sum', compute: 'float32' })
    const parts = ['a', 'b'].map((name) => g.input(name, 'float32', [1, 2]))
    g.output(g.op('Add', parts), 'sum', 'float32', [1, 2])
    const session = await openSession(g.toBytes(), CAPI)
    const bound = session.bind({ a: floats(10, 20) })
    const results = await Promise.all(
      [1, 2, 3].map((value) => bound.run({ b: floats(value, value) }, ['sum'])),
    )
    expect(results.map(({ sum }) => [...sum!.data])).toEqual([
      [11, 21],
      [12, 22],
      [13, 23],
    ])
    bound.release()
    bound.release()
    await expect(bound.run({ b: floats(1, 1) }, ['sum'])).rejects.toThrow('released')
    await session.close()
  })

  test('a tensor can be read and written in place, whole and by its rows, from run to run', async () => {
    const g = createGraph({ name: 'state', compute: 'float32' })
    const state = g.input('state', 'float32', ['rows', 2])
    g.output(g.op('Add', [state, g.scalar(1, 'float32')]), 'next', 'float32', ['rows', 2])
    const session = await openSession(g.toBytes(), CAPI)
    const { device } = session
    const tensor = device!.allocate('float32', [2, 2])
    const seen = floats(0, 0)
    const second = tensor.part(1, 1)
    const steps = [
      device!.bind({}, [{ input: 'state', output: 'next', tensor }]),
      device!.bind({}, [{ input: 'state', output: 'next', tensor: second }]),
      device!.bind({}, [
        { input: 'state', tensor: second },
        { output: 'next', host: seen },
      ]),
    ]
    for (const step of [...steps, ...steps]) expect(await step.run({}, [])).toEqual({})
    // Twice both rows, twice the second alone, and one more on the way out.
    expect([...seen.data]).toEqual([5, 5])
    second.release()
    tensor.release()
    await session.close()
  })
})

test('another release of the library than the package’s is refused: its table may be another', async () => {
  const { version } = await loadCLibrary()
  expect(() => requireVersion(version, version)).not.toThrow()
  expect(() => requireVersion('1.29.1', version)).toThrow(
    `backend capi is not available: the library is onnxruntime 1.29.1, the package onnxruntime-node ${version}`,
  )
})

test('both backends are the same library', async () => {
  expect(new Set(await Promise.all(BACKENDS.map(runtimeVersion))).size).toBe(1)
})

test('without koffi’s native part this backend alone is missing, and says so', async () => {
  const session = fileURLToPath(new URL('../../../gpu-worker/pipeline/session.ts', import.meta.url))
  const program = `
    import { registerHooks } from 'node:module'
    registerHooks({
      resolve(name, context, next) {
        if (name.startsWith('@koromix/') || name.endsWith('.node') && context.parentURL?.includes('koffi'))
          throw new Error('no native part')
        return next(name, context)
      },
    })
    const { requireProvider } = await import(${JSON.stringify(session)})
    await requireProvider({ backend: 'node' })
    await requireProvider({ backend: 'capi' }).catch(({ code, message }) =>
      console.log(JSON.stringify({ code, message })),
    )`
  const flags = ['--experimental-strip-types', '--input-type=module', '--eval', program]
  const { stdout } = await promisify(execFile)(process.execPath, flags)
  expect(JSON.parse(stdout)).toMatchObject({
    code: 'provider_unavailable',
    message: expect.stringMatching(/^backend capi is not available: /),
  })
})
