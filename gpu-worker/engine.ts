import { startChild } from './engine-child.ts'
import type { EngineTimes, LoadHooks } from './engine-child.ts'
import { EngineError } from './engine-error.ts'
import { MAX_IMAGES_BYTES } from './engine-messages.ts'
import type { EngineModel } from './engine-messages.ts'
import { keepChild } from './kept-child.ts'
import type { KeptChild } from './kept-child.ts'
import type {
  GenerateHooks,
  ImageRequest,
  ImageResult,
  ModelInfo,
} from './pipeline/image-request.ts'
import { createTurns } from './turns.ts'

export { EngineError } from './engine-error.ts'

export interface EngineHooks extends GenerateHooks {
  /** Makes no other picture at the same time: for one that may have ended a process before. */
  alone?: boolean
}

export interface Engine {
  readonly info: ModelInfo
  /** The process that holds the model now; another one after a crash. */
  readonly pid: number | undefined
  /**
   * Makes one picture; calls may overlap. One call more than there are slots is refused with `engine_busy`.
   *
   * @throws EngineError always; `retryable` tells whether another try can help. After `engine_crashed`, which ends all
   *   calls that are being worked on, the next call starts a new process; if that cannot be had, for whatever reason, it
   *   fails with `engine_start_failed`.
   */
  generate(request: ImageRequest, hooks?: EngineHooks): Promise<ImageResult>
  /** Ends the process, a starting one too, and with it all running calls. Safe to repeat. */
  close(): Promise<void>
}

const DEFAULT_TIMES: EngineTimes = {
  // 36 GB of shards from a cold network disk at 100 MB/s take six minutes.
  startTimeoutMs: 600_000,
  // The process answers at once, whatever its threads do; one that does not is stuck.
  cancelTimeoutMs: 15_000,
  // The longest single run known: a step of the real model on a processor.
  stallTimeoutMs: 1_800_000,
}

/**
 * Opens a model in a process of its own: native crashes stay there.
 *
 * @param options.slots pictures that are made at once
 * @param options.signal ends the opening
 * @param options.onLoading told of this opening and of those after a crash
 * @throws EngineError `model_invalid` when the checkpoint cannot be used, `provider_unavailable`, `canceled`
 */
export async function startEngine(
  options: EngineModel & Partial<EngineTimes> & LoadHooks,
): Promise<Engine> {
  const {
    modelDir,
    threads,
    provider,
    backend,
    slots = 1,
    stepCache,
    firstBlockCache,
    arWeights,
    signal,
    onLoading,
    ...ownTimes
  } = options
  const times = { ...DEFAULT_TIMES, ...ownTimes }
  const model: EngineModel = {
    modelDir,
    slots,
    ...(threads === undefined ? {} : { threads }),
    ...(provider === undefined ? {} : { provider }),
    ...(backend === undefined ? {} : { backend }),
    ...(stepCache === undefined ? {} : { stepCache }),
    ...(firstBlockCache === undefined ? {} : { firstBlockCache }),
    ...(arWeights === undefined ? {} : { arWeights }),
  }
  if (provider === 'cuda') {
    process.emitWarning('provider cuda is not proven: this code has only run on processors', {
      code: 'PROVIDER_UNPROVEN',
    })
  }
  const closing = new AbortController()
  const hooks = onLoading === undefined ? {} : { onLoading }
  const first = startChild(model, times, signal ? { ...hooks, signal } : hooks)
  const kept = keepChild(await first, {
    start: (ends) => startChild(model, times, { ...hooks, signal: ends }),
    closing: closing.signal,
  })
  return toEngine(kept, { slots, closing })
}

function toEngine(
  kept: KeptChild,
  { slots, closing }: { slots: number; closing: AbortController },
): Engine {
  const turns = createTurns()
  const running = new Set<Promise<unknown>>()
  const makePicture = async (request: ImageRequest, { alone = false, ...hooks }: EngineHooks) => {
    try {
      await turns.enter(alone, anyOf(closing.signal, hooks.signal))
    } catch (cause) {
      throw new EngineError('canceled', 'canceled before the start', { cause })
    }
    try {
      const child = await kept.alive(hooks.signal)
      closing.signal.throwIfAborted()
      return await child.generate(request, hooks)
    } finally {
      turns.leave()
    }
  }
  return {
    get info() {
      return kept.current().info
    },
    get pid() {
      return kept.current().pid
    },
    async generate(request, hooks = {}) {
      if (closing.signal.aborted) throw new EngineError('engine_closed', 'the engine is closed')
      requireSendable(request)
      if (running.size >= slots) {
        const made = slots === 1 ? 'another picture' : `${slots} other pictures`
        throw new EngineError('engine_busy', `the engine is making ${made}`)
      }
      if (hooks.signal?.aborted) throw new EngineError('canceled', 'canceled before the start')
      const call = makePicture(request, hooks)
      const settled = call.catch(() => {})
      running.add(settled)
      try {
        return await call
      } catch (cause) {
        if (!closing.signal.aborted) throw cause
        throw new EngineError('engine_closed', 'the engine was closed', { cause })
      } finally {
        running.delete(settled)
      }
    },
    async close() {
      closing.abort()
      await kept.current().close()
      // A process that was starting in place of a crashed one is no child yet.
      await Promise.all(running)
      await kept.current().close()
    },
  }
}

function anyOf(first: AbortSignal, second: AbortSignal | undefined): AbortSignal {
  return second ? AbortSignal.any([first, second]) : first
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
