import { fork } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { createTurns } from '../turns.ts'
import type { ReadLine } from './models.ts'
import type { ReaderCommand, ReaderReport } from './ocr-process.ts'

/**
 * Recorded with every reading. The version changes with anything that can change a reading: the code's own number, and
 * how the hashes of the two models begin.
 */
export const TEXT_ENGINE = { name: 'pp-ocrv6-small', version: '1-090f04ab-6f327246' } as const

export type Reading =
  | { ok: true; lines: ReadLine[]; durationMs: number }
  /** `ocr_failed`: the file could not be read as a picture, or the models gave up on it. */
  | { ok: false; error: 'ocr_timeout' | 'ocr_crashed' | 'ocr_failed'; durationMs: number }

/** Reads the text in pictures. */
export interface TextReader {
  readonly engine: string
  readonly version: string
  /** Never throws, except with the signal's reason: what goes wrong is a reading too. Calls wait for each other. */
  read(file: Uint8Array, signal?: AbortSignal): Promise<Reading>
  /** Ends the process. Safe to repeat. */
  close(): void
}

/**
 * From the call to the answer, the start of the process and the opening of the models with it: twenty times what a
 * picture of 2048x2048 takes on two cores.
 */
const TIMEOUT_MS = 30_000
const CHILD_FILE = new URL('./ocr-process.ts', import.meta.url)

/**
 * A reader in a process of its own, started at the first picture: the runtime blocks its thread, a crash in native code
 * must not take a job with it, and only a process can be stopped in the middle of a picture. One that hangs or crashes is
 * replaced at the next call.
 */
export function createTextReader(
  options: { timeoutMs?: number; childFile?: URL } = {},
): TextReader {
  const { timeoutMs = TIMEOUT_MS, childFile = CHILD_FILE } = options
  let child: ChildProcess | null = null
  let lastCallId = 0
  const turns = createTurns()
  const start = (): ChildProcess => {
    const made = fork(childFile, [], {
      execArgv: ['--disable-warning=ExperimentalWarning', '--experimental-strip-types'],
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    made.once('exit', () => {
      if (child === made) child = null
    })
    made.once('error', () => {
      if (child === made) child = null
    })
    child = made
    return made
  }
  const stop = () => {
    child?.kill('SIGKILL')
    child = null
  }
  const readNow = async (file: Uint8Array, signal?: AbortSignal): Promise<Reading> => {
    lastCallId += 1
    const startedAt = performance.now()
    const process = child ?? start()
    const answer = await ask(process, { callId: lastCallId, file }, { timeoutMs, signal })
    const durationMs = Math.round(performance.now() - startedAt)
    if (answer === 'aborted' || answer === 'ocr_timeout' || answer === 'ocr_crashed') stop()
    signal?.throwIfAborted()
    if (typeof answer !== 'string') return { ok: true, lines: answer, durationMs }
    return { ok: false, error: answer === 'aborted' ? 'ocr_crashed' : answer, durationMs }
  }
  return {
    engine: TEXT_ENGINE.name,
    version: TEXT_ENGINE.version,
    async read(file, signal) {
      // One at a time, so that no call pays for another's picture with its time or dies with its process.
      await turns.enter(true, signal)
      try {
        return await readNow(file, signal)
      } finally {
        turns.leave()
      }
    },
    close: stop,
  }
}

type Answer = ReadLine[] | 'ocr_timeout' | 'ocr_crashed' | 'ocr_failed' | 'aborted'

function ask(
  child: ChildProcess,
  command: ReaderCommand,
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal | undefined },
): Promise<Answer> {
  return new Promise((resolve) => {
    const settle = (answer: Answer) => {
      clearTimeout(timer)
      child.off('message', onMessage).off('exit', onEnd).off('error', onEnd)
      signal?.removeEventListener('abort', onAbort)
      resolve(answer)
    }
    const onMessage = (report: ReaderReport) => {
      if (report.callId === command.callId) settle(report.lines ?? 'ocr_failed')
    }
    const onEnd = () => settle('ocr_crashed')
    const onAbort = () => settle('aborted')
    const timer = setTimeout(() => settle('ocr_timeout'), timeoutMs)
    child.on('message', onMessage).on('exit', onEnd).on('error', onEnd)
    signal?.addEventListener('abort', onAbort, { once: true })
    child.send(command, (error) => {
      if (error) onEnd()
    })
  })
}
