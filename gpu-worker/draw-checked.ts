import type { JobRow } from '../db/jobs.ts'
import { unbilledReasonOf } from '../db/text-terms.ts'
import type { TextCheck, TextTerms, UnbilledReason } from '../db/text-terms.ts'
import { EngineError } from './engine-error.ts'
import { compareTexts } from './ocr/compare.ts'
import type { TextReader } from './ocr/reader.ts'
import type { ImageResult } from './pipeline/image-request.ts'
import type { Attempt } from './run-job.ts'

/** A picture that is kept, with what was read in it and what that means for its price. */
export interface CheckedPicture {
  result: ImageResult
  textCheck: TextCheck | null
  unbilledReason: UnbilledReason | null
}

/** @param isFirst with the picture's own seed, and not again with another */
export type Draw = (seed: number, isFirst: boolean) => Promise<ImageResult>

/** What of an attempt a checked drawing needs. */
export type Checking = Pick<Attempt, 'job' | 'reader' | 'signal' | 'onPicture' | 'spent' | 'log'>

/** Left of the job's time for reading, storing and settling, and for clocks that differ. */
const DEADLINE_MARGIN_MS = 60_000

/**
 * Draws one picture of the job and reads it back if the caller wants that; one that misses its texts is drawn again with
 * another seed, as often as the job's terms and its deadline allow, and the best of them is kept. It is charged once at
 * most, whatever it took.
 *
 * What fails beside the first drawing takes nothing away: a picture that cannot be read is kept and says so, and one
 * that cannot be drawn again is kept as it is.
 *
 * @throws what `draw` throws while there is no picture yet, or when the attempt has to end
 */
export async function drawChecked(
  attempt: Checking,
  idx: number,
  draw: Draw,
): Promise<CheckedPicture> {
  const { job } = attempt
  const terms = job.textTerms
  let best = await drawOnce(attempt, { idx, draws: 1, draw })
  if (terms === null) return best
  let slowestMs = totalMs(best.result)
  for (let draws = 2; draws <= terms.retries + 1 && isMiss(best); draws += 1) {
    if (!isTimeLeft(job, slowestMs)) break
    // Time counts by the picture, and one is done.
    attempt.onPicture()
    const next = await drawAgain(attempt, { idx, draws, draw })
    if (next === null) break
    slowestMs = Math.max(slowestMs, totalMs(next.result))
    const [kept, dropped] = isBetter(next, best) ? [next, best] : [best, next]
    attempt.spent.redrawMs += totalMs(dropped.result)
    best = { ...kept, textCheck: kept.textCheck && { ...kept.textCheck, draws } }
  }
  const { textCheck } = best
  return { ...best, unbilledReason: textCheck && unbilledReasonOf(terms, textCheck) }
}

interface Drawing {
  idx: number
  /** The number of this drawing, from 1. */
  draws: number
  draw: Draw
}

/** Seeds of further drawings lie behind those of all the job's pictures, so that no two are drawn from one. */
function seedOf({ seed, n }: JobRow, { idx, draws }: Drawing): number {
  return (seed + idx + n * (draws - 1)) % 2 ** 32
}

async function drawOnce(attempt: Checking, drawing: Drawing): Promise<CheckedPicture> {
  const { job, reader, signal } = attempt
  const result = await drawing.draw(seedOf(job, drawing), drawing.draws === 1)
  const { textTerms: terms } = job
  const { draws } = drawing
  const textCheck =
    terms && (await checkPicture({ reader, file: result.bytes, terms, draws, signal }))
  return { result, textCheck, unbilledReason: null }
}

/** @returns null when it failed, which is no reason to lose what is there */
async function drawAgain(attempt: Checking, drawing: Drawing): Promise<CheckedPicture | null> {
  const { job, signal, log } = attempt
  try {
    return await drawOnce(attempt, drawing)
  } catch (error) {
    const isLeaving = error instanceof EngineError && error.code === 'engine_closed'
    if (signal.aborted || isLeaving) throw error
    log({ level: 'warn', event: 'redraw_failed', job: job.id, error: String(error) })
    return null
  }
}

/** Reads a picture and compares it; a reader that hung or crashed is asked once more. */
async function checkPicture(input: {
  reader: TextReader
  file: Uint8Array
  terms: TextTerms
  draws: number
  signal: AbortSignal
}): Promise<TextCheck> {
  const { reader, file, terms, draws, signal } = input
  let reading = await reader.read(file, signal)
  if (!reading.ok && reading.error !== 'ocr_failed') reading = await reader.read(file, signal)
  const common = {
    draws,
    engine: reader.engine,
    engine_version: reader.version,
    duration_ms: reading.durationMs,
  }
  const nothing = { passed: null, word_accuracy: null, ned: null, texts: [] }
  if (!reading.ok)
    return { status: 'failed', error: reading.error, ...nothing, read: [], ...common }
  const read = reading.lines.map(({ text }) => text)
  if (terms.expected.length === 0) {
    return { status: 'nothing_expected', error: null, ...nothing, read, ...common }
  }
  const { wordAccuracy, ned, texts } = compareTexts(terms.expected, read)
  return {
    status: 'checked',
    error: null,
    passed: wordAccuracy >= terms.threshold,
    word_accuracy: rounded(wordAccuracy),
    ned: rounded(ned),
    texts,
    read,
    ...common,
  }
}

function isMiss({ textCheck }: CheckedPicture): boolean {
  return textCheck?.passed === false
}

function isTimeLeft({ deadlineAt }: JobRow, slowestMs: number): boolean {
  return deadlineAt.getTime() - Date.now() > 2 * slowestMs + DEADLINE_MARGIN_MS
}

function isBetter(a: CheckedPicture, b: CheckedPicture): boolean {
  const [one, other] = [a.textCheck, b.textCheck]
  const byWords = (one?.word_accuracy ?? -1) - (other?.word_accuracy ?? -1)
  return byWords === 0 ? (one?.ned ?? -1) > (other?.ned ?? -1) : byWords > 0
}

function totalMs({ timingsMs }: ImageResult): number {
  return timingsMs['total'] ?? 0
}

function rounded(share: number): number {
  return Math.round(share * 1e6) / 1e6
}
