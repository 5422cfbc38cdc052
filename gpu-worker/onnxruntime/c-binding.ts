import { EngineError } from '../engine-error.ts'
import type { BoundRun, DeviceTensor, Feeds, HostTensor, RunHooks, StateTensor } from './backend.ts'
import { createOwner } from './c-handles.ts'
import type { Owner } from './c-handles.ts'
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
 * Runs of one binding follow one another in the order of the calls; letting go of it waits for those that were called for.
 */
export function bindInputs(
  place: SessionPlace,
  shared: Feeds,
  state: readonly StateTensor[] = [],
): BoundRun {
  const owner = createOwner(place.library)
  const binding = createBinding(place, owner)
  try {
    binding.lend(shared)
    binding.bindState(state)
  } catch (error) {
    owner.releaseAll()
    throw error
  }
  const run = async (feeds: Feeds, names: readonly string[], hooks: RunHooks) => {
    binding.lend(feeds)
    if (names.length > 0) binding.bindResults(names)
    await runBinding(place, binding.pointer, hooks.signal)
    return names.length > 0 ? readResults(place, binding.pointer, names) : {}
  }
  let last: Promise<unknown> = Promise.resolve()
  let unfinished = 0
  let isReleased = false
  const releaseIfIdle = () => {
    if (isReleased && unfinished === 0) owner.releaseAll()
  }
  return {
    async run(feeds, names, hooks = {}) {
      if (isReleased) throw new Error('the binding is released')
      unfinished += 1
      const result = last.then(() => run(feeds, names, hooks))
      last = result.catch(() => {})
      try {
        return await result
      } finally {
        unfinished -= 1
        releaseIfIdle()
      }
    },
    release() {
      isReleased = true
      releaseIfIdle()
    },
  }
}

function createBinding(place: SessionPlace, owner: Owner) {
  const { library, session, hostMemory } = place
  const { pointer } = owner.own('ReleaseIoBinding', library.make('CreateIoBinding', session))
  const maker = { ...place, owner }
  /** What is bound, by its name: the memory must stay as long as the binding or what takes its place. */
  const lent = new Map<string, Value>()
  const outputs: { name: string; value: bigint }[] = []
  const keep = (name: string, tensor: HostTensor): bigint => {
    const value = lendTensor(maker, tensor)
    lent.set(name, value)
    return value.handle.pointer
  }
  const bindOutputs = () => {
    for (const { name, value } of outputs) library.call('BindOutput', pointer, name, value)
  }
  return {
    pointer,
    lend(feeds: Feeds) {
      for (const [name, tensor] of Object.entries(feeds)) {
        const before = lent.get(name)
        library.call('BindInput', pointer, name, keep(name, tensor))
        before?.handle.release()
      }
    },
    bindState(state: readonly StateTensor[]) {
      for (const item of state) {
        if ('host' in item) {
          outputs.push({ name: item.output, value: keep(item.output, item.host) })
          continue
        }
        const value = valueOf(item.tensor)
        if (item.input !== undefined) library.call('BindInput', pointer, item.input, value)
        if (item.output !== undefined) outputs.push({ name: item.output, value })
      }
      bindOutputs()
    },
    /** Results of whatever shape. They come first in the list of outputs. */
    bindResults(names: readonly string[]) {
      // What an output is bound to would be written over by the next run, which may give another shape.
      library.release('ClearBoundOutputs', pointer)
      for (const name of names) library.call('BindOutputToDevice', pointer, name, hostMemory)
      bindOutputs()
    },
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
function readResults(
  { library, allocator }: SessionPlace,
  binding: bigint,
  names: readonly string[],
): Feeds {
  const count = new BigUint64Array(1)
  const list = new BigUint64Array(1)
  library.call('GetBoundOutputValues', binding, allocator, list, count)
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
