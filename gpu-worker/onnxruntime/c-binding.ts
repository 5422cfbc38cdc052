import { EngineError } from '../engine-error.ts'
import type { BoundRun, DeviceTensor, Feeds, RunHooks, StateTensor } from './backend.ts'
import { createOwner } from './c-handles.ts'
import { lendTensor, readTensor } from './c-tensors.ts'
import type { DevicePlace, TensorMaker, Value } from './c-tensors.ts'

export interface SessionPlace extends TensorMaker {
  readonly session: bigint
  /** The allocator of names and lists that the runtime hands out; nobody's to release. */
  readonly allocator: bigint
}

/**
 * Binds inputs to a session. On a card what is bound is copied there now; on a processor it is read in place by every run.
 *
 * Runs of one binding follow one another in the order of the calls.
 */
export function bindInputs(
  place: SessionPlace,
  shared: Feeds,
  state: readonly StateTensor[] = [],
): BoundRun {
  const { library, session } = place
  const owner = createOwner(library)
  const own = { ...place, owner }
  const bound = new Map<string, Value>()
  const binding = owner.own('ReleaseIoBinding', library.make('CreateIoBinding', session)).pointer
  const outputs = state.flatMap(({ output, tensor }) =>
    output === undefined ? [] : [{ name: output, value: valueOf(tensor) }],
  )
  const lend = (feeds: Feeds) => {
    for (const [name, tensor] of Object.entries(feeds)) {
      const value = lendTensor(own, tensor)
      library.call('BindInput', binding, name, value.handle.pointer)
      bound.get(name)?.handle.release()
      bound.set(name, value)
    }
  }
  const run = async (feeds: Feeds, names: readonly string[], { signal }: RunHooks) => {
    lend(feeds)
    // A list of results would be written over by the next run, of whatever shape.
    library.release('ClearBoundOutputs', binding)
    for (const name of names) library.call('BindOutputToDevice', binding, name, place.hostMemory)
    for (const { name, value } of outputs) library.call('BindOutput', binding, name, value)
    await runBinding(place, binding, signal)
    return readOutputs(place, binding, names)
  }
  try {
    lend(shared)
    for (const { input, tensor } of state) {
      if (input !== undefined) library.call('BindInput', binding, input, valueOf(tensor))
    }
  } catch (error) {
    owner.releaseAll()
    throw error
  }
  let last: Promise<unknown> = Promise.resolve()
  return {
    run(feeds, names, hooks = {}) {
      const result = last.then(() => run(feeds, names, hooks))
      last = result.catch(() => {})
      return result
    },
    release: () => owner.releaseAll(),
  }
}

function valueOf(tensor: DeviceTensor): bigint {
  // Only this backend makes them.
  return (tensor as DeviceTensor & DevicePlace).value.handle.pointer
}

async function runBinding(
  { library, session }: SessionPlace,
  binding: bigint,
  signal: AbortSignal | undefined,
): Promise<void> {
  if (signal?.aborted) throw canceled(signal)
  if (!signal) return library.callElsewhere('RunWithBinding', session, null, binding)
  const owner = createOwner(library)
  const options = owner.own('ReleaseRunOptions', library.make('CreateRunOptions')).pointer
  const onAbort = () => library.call('RunOptionsSetTerminate', options)
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    await library.callElsewhere('RunWithBinding', session, options, binding)
  } catch (error) {
    if (signal.aborted) throw canceled(signal)
    throw error
  } finally {
    signal.removeEventListener('abort', onAbort)
    owner.releaseAll()
  }
}

function canceled(signal: AbortSignal): EngineError {
  return new EngineError('canceled', 'canceled during a run', { cause: signal.reason })
}

/** The results in the order of their binding, which is that of the names. */
function readOutputs(
  { library, allocator }: SessionPlace,
  binding: bigint,
  names: readonly string[],
): Feeds {
  const count = new BigUint64Array(new ArrayBuffer(8))
  const list = new BigUint64Array(new ArrayBuffer(8))
  library.call(
    'GetBoundOutputValues',
    binding,
    allocator,
    library.addressOf(list.buffer),
    library.addressOf(count.buffer),
  )
  const [address = 0n] = list
  const values = [...new BigUint64Array(library.view(address, 8 * Number(count[0] ?? 0n)))]
  library.call('AllocatorFree', allocator, address)
  try {
    return Object.fromEntries(
      names.map((name, index) => [name, readTensor(library, values[index] ?? 0n)]),
    )
  } finally {
    for (const value of values) library.release('ReleaseValue', value)
  }
}
