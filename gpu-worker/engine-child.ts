import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'

import { EngineError, ofFailure } from './engine-error.ts'
import type { EngineCommand, EngineModel, EngineReport } from './engine-messages.ts'
import type { LoadProgress } from './pipeline/glm-image.ts'
import type {
  GenerateHooks,
  ImageRequest,
  ImageResult,
  ModelInfo,
} from './pipeline/image-request.ts'

export interface EngineTimes {
  /** Without any report while the model is opened: on a card every weight is copied there. */
  startTimeoutMs: number
  /** From an abort to the answer; past it the child is killed. */
  cancelTimeoutMs: number
  /** Without any report during a call; past it the child is killed. */
  stallTimeoutMs: number
}

export interface EngineChild {
  readonly info: ModelInfo
  readonly pid: number | undefined
  /** False once the process ended; such a child takes no more calls. */
  isAlive(): boolean
  /** Calls may overlap. Errors are EngineErrors, whatever happens to the process, which takes all calls with it. */
  generate(request: ImageRequest, hooks: GenerateHooks): Promise<ImageResult>
  /** Ends the process, by force if it does not end by itself. Safe to repeat. */
  close(): Promise<void>
}

export interface LoadHooks {
  signal?: AbortSignal
  onLoading?: (progress: LoadProgress) => void
}

const CHILD_FILE = new URL('./engine-process.ts', import.meta.url)
/** How much of the child's last words goes into the error about its end. */
const STDERR_TAIL = 500
/** Enough for an idle child; one in the middle of a graph run does not read its messages. */
const CLOSE_TIMEOUT_MS = 2_000

/**
 * Starts a process and opens the model in it. Whatever fails, the process has ended when the call returns.
 *
 * @param hooks.signal ends the process while it opens the model
 * @param hooks.onLoading told of the opening
 * @throws EngineError `model_invalid`, `provider_unavailable`, `engine_crashed`, `canceled`, or `engine_timeout` after
 *   `startTimeoutMs` without a report
 */
export async function startChild(
  model: EngineModel,
  times: EngineTimes,
  { signal, onLoading }: LoadHooks,
): Promise<EngineChild> {
  const child = fork(CHILD_FILE, [], {
    // This process's own flags may be a test runner's or a debugger's.
    execArgv: ['--disable-warning=ExperimentalWarning', '--experimental-strip-types'],
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  })
  // Each call listens.
  child.setMaxListeners(0)
  const words = collectTail(child)
  const onAbort = () => child.kill('SIGKILL')
  signal?.addEventListener('abort', onAbort, { once: true })
  if (signal?.aborted) onAbort()
  try {
    const opening = converse(child, words, {
      callId: null,
      silenceMs: times.startTimeoutMs,
      read(report) {
        if (report.type === 'loading') onLoading?.(report.progress)
        return report.type === 'ready' ? report.info : null
      },
    })
    post(child, { type: 'open', model })
    return createChild({ child, words, info: await opening, times })
  } catch (error) {
    child.kill('SIGKILL')
    await untilEnded(child)
    if (!signal?.aborted) throw error
    throw new EngineError('canceled', 'canceled while the model was opened', { cause: error })
  } finally {
    signal?.removeEventListener('abort', onAbort)
  }
}

function createChild(parts: {
  child: ChildProcess
  words: () => string
  info: ModelInfo
  times: EngineTimes
}): EngineChild {
  const { child, words, info, times } = parts
  const isAlive = () => child.connected && !hasEnded(child)
  let lastCallId = 0
  return {
    info,
    pid: child.pid,
    isAlive,
    async generate(request, { signal, onProgress, onTokens }) {
      lastCallId += 1
      const callId = lastCallId
      let killTimer: NodeJS.Timeout | undefined
      const onAbort = () => {
        post(child, { type: 'cancel', callId })
        killTimer = setTimeout(() => child.kill('SIGKILL'), times.cancelTimeoutMs)
      }
      const answer = converse(child, words, {
        callId,
        silenceMs: times.stallTimeoutMs,
        read(report) {
          if (report.type === 'progress') onProgress?.(report.progress)
          if (report.type === 'tokens') onTokens?.(report.tokens)
          return report.type === 'result' ? report.result : null
        },
      })
      post(child, { type: 'generate', callId, request })
      signal?.addEventListener('abort', onAbort, { once: true })
      // It may have been aborted while a crashed process was being replaced.
      if (signal?.aborted) onAbort()
      try {
        return await answer
      } catch (error) {
        // A hook that threw leaves the child at work on a picture that nobody waits for.
        if (!(error instanceof EngineError)) post(child, { type: 'cancel', callId })
        // Whoever canceled does not care that the child had to be killed for it.
        if (signal?.aborted && error instanceof EngineError && error.retryable) {
          throw new EngineError('canceled', 'canceled', { cause: error })
        }
        throw error
      } finally {
        clearTimeout(killTimer)
        signal?.removeEventListener('abort', onAbort)
      }
    },
    async close() {
      if (hasEnded(child)) return
      post(child, { type: 'close' })
      const timer = setTimeout(() => child.kill('SIGKILL'), CLOSE_TIMEOUT_MS)
      await untilEnded(child)
      clearTimeout(timer)
    },
  }
}

/**
 * Listens until a report is the answer, a report is a failure, the process ends, or nothing was heard for
 * `silenceMs`; a silent process is killed.
 */
function converse<Answer>(
  child: ChildProcess,
  words: () => string,
  options: {
    callId: number | null
    silenceMs: number
    read: (report: EngineReport) => Answer | null
  },
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer)
      child.off('message', onMessage).off('exit', onExit).off('error', onError)
    }
    const fail = (error: unknown) => {
      stop()
      reject(error)
    }
    const onMessage = (report: EngineReport) => {
      timer.refresh()
      // The end of an abandoned call may arrive during the next one.
      if (report.callId !== options.callId) return
      if (report.type === 'failed') {
        return fail(ofFailure(report.failure))
      }
      try {
        const answer = options.read(report)
        if (answer === null) return
        stop()
        resolve(answer)
      } catch (error) {
        // A hook of the caller threw; its error is the outcome of the call.
        fail(error)
      }
    }
    const onExit = (code: number | null, signal: string | null) => {
      const cause = signal === null ? `exit code ${code}` : signal
      fail(new EngineError('engine_crashed', `the engine process ended: ${cause}${words()}`))
    }
    const onError = (cause: Error) =>
      fail(new EngineError('engine_crashed', `the engine process: ${cause.message}`, { cause }))
    const timer = setTimeout(() => {
      child.kill('SIGKILL')
      fail(new EngineError('engine_timeout', `no sign of the engine for ${options.silenceMs} ms`))
    }, options.silenceMs)
    child.on('message', onMessage).on('exit', onExit).on('error', onError)
    if (hasEnded(child)) onExit(child.exitCode, child.signalCode)
  })
}

function hasEnded(child: ChildProcess): boolean {
  // Without an id it was never there.
  return child.pid === undefined || child.exitCode !== null || child.signalCode !== null
}

async function untilEnded(child: ChildProcess): Promise<void> {
  if (!hasEnded(child)) await once(child, 'exit')
}

/** A message to a process that just ended is lost; its `exit` event settles the call. */
function post(child: ChildProcess, command: EngineCommand): void {
  if (child.connected) child.send(command, () => {})
}

function collectTail(child: ChildProcess): () => string {
  let tail = ''
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    tail = (tail + text).slice(-STDERR_TAIL)
  })
  return () => (tail.trim() === '' ? '' : `; it said: ${tail.trim()}`)
}
