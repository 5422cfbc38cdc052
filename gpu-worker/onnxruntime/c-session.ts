import type { BoundRun, Device, Feeds, RunHooks, Session, SessionOptions } from './backend.ts'
import { bindInputs } from './c-binding.ts'
import type { SessionPlace } from './c-binding.ts'
import { createOwner } from './c-handles.ts'
import type { Owner } from './c-handles.ts'
import { hasProviderFile, loadCLibrary, LOG_FATAL } from './c-library.ts'
import type { CLibrary } from './c-library.ts'
import { allocateTensor } from './c-tensors.ts'
import { configEntries } from './session-config.ts'

/** What native code reads by its address just now, and nobody else may hold. */
const inUse = new Set<unknown>()

/** Numbers of the interface's enumerations. */
const SEQUENTIAL = 0
const OPTIMIZE_ALL = 99
const DEVICE_ALLOCATOR = 0
const DEFAULT_MEMORY = 0

const CARD_LIBRARY = 'libonnxruntime_providers_cuda.so'

/** What the arena of the card does: it must not round the weights up to a power of two. */
const CARD_OPTIONS = { device_id: '0', arena_extend_strategy: 'kSameAsRequested' }

/**
 * Opens a graph by the C interface. Opening and runs leave the event loop free, a run can be ended in the middle, and
 * tensors can stay where the graph runs.
 *
 * @throws EngineError `provider_unavailable` when the interface is; Error with the runtime's words
 */
export async function openCSession(bytes: Uint8Array, options: SessionOptions): Promise<Session> {
  const library = await loadCLibrary()
  const owner = createOwner(library)
  try {
    const place = await openPlace(library, owner, { bytes, options })
    return createSession(place, listOutputs(place))
  } catch (error) {
    owner.releaseAll()
    throw error
  }
}

async function openPlace(
  library: CLibrary,
  owner: Owner,
  { bytes, options }: { bytes: Uint8Array; options: SessionOptions },
): Promise<SessionPlace> {
  const settings = owner.own('ReleaseSessionOptions', library.make('CreateSessionOptions'))
  applySettings(library, settings.pointer, options)
  if (options.provider === 'cuda') appendCard(library, settings.pointer)
  const session = await createFrom(library, bytes, settings.pointer)
  owner.own('ReleaseSession', session)
  settings.release()
  const memoryOf = (pointer: bigint) => owner.own('ReleaseMemoryInfo', pointer).pointer
  const hostMemory = memoryOf(library.make('CreateCpuMemoryInfo', DEVICE_ALLOCATOR, DEFAULT_MEMORY))
  const allocator = library.make('GetAllocatorWithDefaultOptions')
  const shared = { library, owner, session, allocator, hostMemory }
  if (options.provider !== 'cuda') return { ...shared, card: null }
  const memory = memoryOf(
    library.make('CreateMemoryInfo', 'Cuda', DEVICE_ALLOCATOR, 0, DEFAULT_MEMORY),
  )
  const made = library.make('CreateAllocator', session, memory)
  const card = { memory, allocator: owner.own('ReleaseAllocator', made).pointer }
  return { ...shared, card }
}

async function createFrom(library: CLibrary, bytes: Uint8Array, settings: bigint): Promise<bigint> {
  // A copy of its own: whoever made the bytes may go on with them.
  const model = bytes.slice()
  inUse.add(model)
  try {
    return await library.makeElsewhere(
      'CreateSessionFromArray',
      library.environment,
      library.addressOf(model.buffer),
      model.byteLength,
      settings,
    )
  } finally {
    inUse.delete(model)
  }
}

function applySettings(library: CLibrary, settings: bigint, options: SessionOptions): void {
  if (options.threads !== undefined) {
    library.call('SetIntraOpNumThreads', settings, options.threads)
  }
  library.call('SetInterOpNumThreads', settings, 1)
  library.call('SetSessionExecutionMode', settings, SEQUENTIAL)
  library.call('SetSessionGraphOptimizationLevel', settings, OPTIMIZE_ALL)
  library.call('SetSessionLogSeverityLevel', settings, LOG_FATAL)
  for (const [key, value] of Object.entries(configEntries(options))) {
    library.call('AddSessionConfigEntry', settings, key, value)
  }
}

/** @throws Error when the provider is not there: the runtime would not say so before the first run on a processor */
function appendCard(library: CLibrary, settings: bigint): void {
  if (!hasProviderFile(library, CARD_LIBRARY)) {
    throw new Error(`${library.folder} has no ${CARD_LIBRARY}`)
  }
  const owner = createOwner(library)
  const keys = toTexts(library, Object.keys(CARD_OPTIONS))
  const values = toTexts(library, Object.values(CARD_OPTIONS))
  try {
    const made = library.make('CreateCUDAProviderOptions')
    const card = owner.own('ReleaseCUDAProviderOptions', made).pointer
    inUse.add(keys).add(values)
    library.call('UpdateCUDAProviderOptions', card, keys.list, values.list, keys.list.length)
    library.call('SessionOptionsAppendExecutionProvider_CUDA_V2', settings, card)
  } finally {
    inUse.delete(keys)
    inUse.delete(values)
    owner.releaseAll()
  }
}

/** A list of addresses of texts that end with a zero. */
function toTexts(library: CLibrary, texts: readonly string[]) {
  const parts = texts.map((text) => new TextEncoder().encode(`${text}\0`))
  const list = BigUint64Array.from(
    parts,
    ({ buffer, byteOffset }) => library.addressOf(buffer) + BigInt(byteOffset),
  )
  return { parts, list }
}

function listOutputs({ library, session, allocator }: SessionPlace): string[] {
  const count = Number(library.make('SessionGetOutputCount', session))
  return Array.from({ length: count }, (_, index) => {
    const address = library.make('SessionGetOutputName', session, index, allocator)
    const name = library.readText(address)
    library.call('AllocatorFree', allocator, address)
    return name
  })
}

function createSession(place: SessionPlace, outputNames: readonly string[]): Session {
  const bindings = new Set<BoundRun>()
  const running = new Set<Promise<unknown>>()
  let isClosed = false
  const bind: Device['bind'] = (shared, state) => {
    if (isClosed) throw new Error('the session is closed')
    const binding = bindInputs(place, shared, state)
    const own: BoundRun = {
      async run(feeds, outputs, hooks) {
        if (isClosed) throw new Error('the session is closed')
        const result = binding.run(feeds, outputs, hooks)
        const settled = result.catch(() => {})
        running.add(settled)
        try {
          return await result
        } finally {
          running.delete(settled)
        }
      },
      release() {
        bindings.delete(own)
        binding.release()
      },
    }
    bindings.add(own)
    return own
  }
  return {
    async run(feeds: Feeds, outputs: readonly string[] = outputNames, hooks: RunHooks = {}) {
      const binding = bind({}, [])
      try {
        return await binding.run(feeds, outputs, hooks)
      } finally {
        binding.release()
      }
    },
    bind: (shared) => bind(shared, []),
    device: { allocate: (dtype, shape) => allocateTensor(place, dtype, shape), bind },
    async close() {
      isClosed = true
      await Promise.all(running)
      for (const binding of bindings) binding.release()
      place.owner.releaseAll()
    },
  }
}
