import { SIZE_CLASSES } from '../db/size-classes.ts'
import type { Engine } from './engine.ts'
import type { LeaseKeeper } from './lease.ts'
import type { Queue } from './sqs.ts'

/** What a worker works with, under the eyes of somebody who may have to send it away. */
export interface Drain {
  readonly queue: Queue
  readonly leases: LeaseKeeper
  readonly engine: Engine
  /** Jobs in hand. */
  readonly busy: () => number
  /** Told with every change from none to some and back. */
  onBusy: (isBusy: boolean) => void
  /**
   * Takes nothing more, and waits for what is in hand for as long as every picture under way can be expected to be
   * stored in time. A second call with less time takes effect at once.
   *
   * @returns `done` with nothing in hand any more, or `too_long` when the rest has to be given back
   */
  leave(withinMs: number): Promise<'done' | 'too_long'>
}

interface Picture {
  readonly startedAt: number
  readonly pixels: number
  stage: string
  stageAt: number
  step: number
  total: number
}

/** Decoding, encoding, storing and settling after the last step, on top of what the steps take. */
const AFTER_STEPS_MS = 5_000

/** Wraps queue, leases and engine, so that neither the loop nor the jobs know of leaving. */
export function createDrain(
  parts: { queue: Queue; leases: LeaseKeeper; engine: Engine },
  now: () => number = () => performance.now(),
): Drain {
  const pictures = new Set<Picture>()
  const gate = new AbortController()
  let held = 0
  let leaveAt = Infinity
  /** Those who wait for the end. */
  const leaving = new Set<() => void>()
  const recheck = () => leaving.forEach((look) => look())
  const drain: Drain = {
    queue: gateQueue(parts.queue, gate.signal),
    leases: countLeases(parts.leases, (change) => {
      const was = held
      held += change
      if ((was === 0) !== (held === 0)) drain.onBusy(held > 0)
      recheck()
    }),
    engine: watchEngine(parts.engine, pictures, now, recheck),
    busy: () => held,
    onBusy: () => {},
    leave(withinMs) {
      gate.abort()
      leaveAt = Math.min(leaveAt, now() + withinMs)
      return new Promise((resolve) => {
        const timer = setTimeout(() => end('too_long'), Math.min(leaveAt - now(), 2 ** 31 - 1))
        const end = (outcome: 'done' | 'too_long') => {
          clearTimeout(timer)
          leaving.delete(look)
          resolve(outcome)
        }
        const look = () => {
          if (held === 0) end('done')
          else if ([...pictures].some((each) => now() + remainingMs(each, now()) > leaveAt))
            end('too_long')
        }
        leaving.add(look)
        recheck()
      })
    },
  }
  return drain
}

/**
 * What a picture still takes: by its own steps while it denoises, before that by what one of its size takes on average.
 * The average is that of a slow card; one that is faster finishes more than this promises.
 */
export function remainingMs(picture: Picture, nowMs: number): number {
  const { stage, step, total, stageAt, startedAt, pixels } = picture
  if (stage === 'decode' || stage === 'encode') return AFTER_STEPS_MS
  if (stage === 'denoise' && step > 0) {
    return ((nowMs - stageAt) / step) * (total - step) + AFTER_STEPS_MS
  }
  const known = SIZE_CLASSES.find(({ maxPixels }) => pixels <= maxPixels)
  return Math.max(AFTER_STEPS_MS, (known?.meanSeconds ?? 0) * 1_000 - (nowMs - startedAt))
}

/** Polls end with the gate, and none begins after it: the loop stands there until it is stopped. */
function gateQueue(queue: Queue, gate: AbortSignal): Queue {
  return {
    ...queue,
    async receive(options) {
      const { signal } = options
      if (!gate.aborted) {
        try {
          return await queue.receive({ ...options, signal: AbortSignal.any([signal, gate]) })
        } catch (error) {
          if (!gate.aborted) throw error
        }
      }
      await new Promise<void>((resolve) => {
        if (signal.aborted) resolve()
        signal.addEventListener('abort', () => resolve(), { once: true })
      })
      return null
    },
  }
}

function countLeases(leases: LeaseKeeper, count: (change: 1 | -1) => void): LeaseKeeper {
  return {
    hold(receipt) {
      const lease = leases.hold(receipt)
      let isHeld = true
      count(1)
      return {
        signal: lease.signal,
        renew: () => lease.renew(),
        release() {
          lease.release()
          if (isHeld) count(-1)
          isHeld = false
        },
      }
    },
    close: () => leases.close(),
  }
}

function watchEngine(
  engine: Engine,
  pictures: Set<Picture>,
  now: () => number,
  onChange: () => void,
): Engine {
  const generate: Engine['generate'] = async (request, hooks) => {
    const startedAt = now()
    const { default: usual } = engine.info.size
    const [width, height] = usual.split('x').map(Number)
    const pixels = (request.width ?? width ?? 0) * (request.height ?? height ?? 0)
    const own = { startedAt, pixels, stage: '', stageAt: startedAt, step: 0, total: 0 }
    pictures.add(own)
    onChange()
    try {
      return await engine.generate(request, {
        ...hooks,
        onProgress(progress) {
          const { stage, step, total } = progress
          Object.assign(own, { step, total }, stage === own.stage ? {} : { stage, stageAt: now() })
          onChange()
          hooks?.onProgress?.(progress)
        },
      })
    } finally {
      pictures.delete(own)
    }
  }
  return new Proxy(engine, {
    get: (target, name) => (name === 'generate' ? generate : Reflect.get(target, name, target)),
  })
}
