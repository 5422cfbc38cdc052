import type { EngineChild } from './engine-child.ts'
import { EngineError } from './engine-error.ts'

export interface KeptChild {
  current(): EngineChild
  /**
   * The child, or another one in its place when it has ended; calls that wait for the same one share it.
   *
   * @param signal ends the waiting, and the starting when nobody else waits
   * @throws EngineError `engine_start_failed` when it cannot be had: the request has nothing to do with that
   */
  alive(signal?: AbortSignal): Promise<EngineChild>
}

interface Start {
  child: Promise<EngineChild>
  /** Ends it. */
  controller: AbortController
  waiting: number
}

/** Keeps one child process at hand. */
export function keepChild(
  first: EngineChild,
  options: { start: (ends: AbortSignal) => Promise<EngineChild>; closing: AbortSignal },
): KeptChild {
  let child = first
  let starting: Start | null = null
  const startAnother = (): Start => {
    const controller = new AbortController()
    const ends = AbortSignal.any([controller.signal, options.closing])
    const started = options.start(ends).then(
      (next) => {
        child = next
        return next
      },
      (cause: unknown) => {
        if (ends.aborted) throw cause
        const text = cause instanceof Error ? cause.message : String(cause)
        throw new EngineError('engine_start_failed', `no new engine process: ${text}`, { cause })
      },
    )
    const own: Start = { child: started, controller, waiting: 0 }
    const forget = () => {
      if (starting === own) starting = null
    }
    started.then(forget, forget)
    return own
  }
  return {
    current: () => child,
    async alive(signal) {
      if (child.isAlive()) return child
      // One that is being given up is no start to wait for.
      if (!starting || starting.controller.signal.aborted) starting = startAnother()
      return await waitFor(starting, signal)
    },
  }
}

async function waitFor(start: Start, signal: AbortSignal | undefined): Promise<EngineChild> {
  start.waiting += 1
  let onAbort = () => {}
  const given = new Promise<never>((_resolve, reject) => {
    onAbort = () => {
      // The last one to go waits for the end of the process.
      if (start.waiting === 1) start.controller.abort()
      else reject(new EngineError('canceled', 'canceled while the model was opened'))
    }
    signal?.addEventListener('abort', onAbort, { once: true })
  })
  try {
    return await Promise.race([start.child, given])
  } finally {
    start.waiting -= 1
    signal?.removeEventListener('abort', onAbort)
  }
}
