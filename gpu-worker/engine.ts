import { startChild } from './engine-child.ts'
import type { EngineTimes } from './engine-child.ts'
import { EngineError } from './engine-error.ts'
import { MAX_IMAGES_BYTES } from './engine-messages.ts'
import type { EngineModel } from './engine-messages.ts'
import type {
  GenerateHooks,
  ImageRequest,
  ImageResult,
  ModelInfo,
} from './pipeline/image-request.ts'

export { EngineError } from './engine-error.ts'

export interface Engine {
  readonly info: ModelInfo
  /** The process that holds the model now; another one after a crash. */
  readonly pid: number | undefined
  /**
   * Makes one picture; a second call before the first has settled is refused with `engine_busy`.
   *
   * @throws EngineError always; `retryable` tells whether another try can help. After `engine_crashed` the next
   *   call starts a new process; if that cannot be had, for whatever reason, it fails with `engine_start_failed`.
   */
  generate(request: ImageRequest, hooks?: GenerateHooks): Promise<ImageResult>
  /** Ends the process, a starting one too, and with it a running call. Safe to repeat. */
  close(): Promise<void>
}

const DEFAULT_TIMES: EngineTimes = {
  // 36 GB of shards from a cold network disk at 100 MB/s take six minutes.
  startTimeoutMs: 600_000,
  // Longer than one chunk, one step or one decode takes on a card.
  cancelTimeoutMs: 15_000,
  // The longest single run known: a step of the real model on a processor.
  stallTimeoutMs: 1_800_000,
}

/**
 * Opens a model in a process of its own: native crashes and a blocked event loop stay there.
 *
 * @param options.signal ends the opening
 * @throws EngineError `model_invalid` when the checkpoint cannot be used, `provider_unavailable`, `canceled`
 */
export async function startEngine(
  options: EngineModel & Partial<EngineTimes> & { signal?: AbortSignal },
): Promise<Engine> {
  const { modelDir, threads, provider, signal, ...ownTimes } = options
  const times = { ...DEFAULT_TIMES, ...ownTimes }
  const model: EngineModel = {
    modelDir,
    ...(threads === undefined ? {} : { threads }),
    ...(provider === undefined ? {} : { provider }),
  }
  if (provider === 'cuda') {
    process.emitWarning('provider cuda is not proven: this code has only run on processors', {
      code: 'PROVIDER_UNPROVEN',
    })
  }
  const closing = new AbortController()
  let child = await startChild(model, times, signal)
  let running: Promise<unknown> | null = null

  const makePicture = async (request: ImageRequest, hooks: GenerateHooks) => {
    try {
      if (!child.isAlive()) {
        const ends = hooks.signal ? [closing.signal, hooks.signal] : [closing.signal]
        child = await restartChild(model, times, AbortSignal.any(ends))
      }
      closing.signal.throwIfAborted()
      return await child.generate(request, hooks)
    } catch (cause) {
      if (!closing.signal.aborted) throw cause
      throw new EngineError('engine_closed', 'the engine was closed', { cause })
    }
  }
  return {
    get info() {
      return child.info
    },
    get pid() {
      return child.pid
    },
    async generate(request, hooks = {}) {
      if (closing.signal.aborted) throw new EngineError('engine_closed', 'the engine is closed')
      requireSendable(request)
      if (running) throw new EngineError('engine_busy', 'the engine is making another picture')
      if (hooks.signal?.aborted) throw new EngineError('canceled', 'canceled before the start')
      const call = makePicture(request, hooks)
      running = call.catch(() => {})
      try {
        return await call
      } finally {
        running = null
      }
    },
    async close() {
      closing.abort()
      await child.close()
      // A process that was starting in place of a crashed one is no child yet.
      await running
      await child.close()
    },
  }
}

/** @throws EngineError `invalid_request` when the condition images are too large for a message */
function requireSendable({ images = [] }: ImageRequest): void {
  const bytes = images.reduce((sum, { length }) => sum + length, 0)
  if (bytes <= MAX_IMAGES_BYTES) return
  throw new EngineError(
    'invalid_request',
    `images must have at most ${MAX_IMAGES_BYTES} bytes together, not ${bytes}`,
    { field: 'images' },
  )
}

/** Another process in place of a dead one. The request has nothing to do with it when that cannot be had. */
async function restartChild(
  ...start: Parameters<typeof startChild>
): ReturnType<typeof startChild> {
  try {
    return await startChild(...start)
  } catch (cause) {
    if (start[2]?.aborted) throw cause
    const text = cause instanceof Error ? cause.message : String(cause)
    throw new EngineError('engine_start_failed', `no new engine process: ${text}`, { cause })
  }
}
