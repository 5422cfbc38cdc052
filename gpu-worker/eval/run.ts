import { createHash } from 'node:crypto'
import { appendFile, mkdir, readFile, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { readImageSize } from '../pipeline/read-image.ts'
import type { TextReader } from '../ocr/reader.ts'
import type { EvalPrompt } from './prompts.ts'
import { tallyOf } from './protocol.ts'
import type { Suite } from './protocol.ts'
import { itemSchema, toReport } from './report.ts'
import type { EvalItem, EvalReport, ReportAbout } from './report.ts'
import { pageOf } from './report-page.ts'
import type { Target } from './targets.ts'

export interface EvalRun {
  readonly suite: Suite
  readonly prompts: readonly EvalPrompt[]
  readonly perPrompt: number
  readonly seed: number
  /** Where everything goes. */
  readonly folder: string
  readonly about: Omit<ReportAbout, 'suite' | 'wished' | 'startedAt'>
  readonly target: Target
  readonly reader: TextReader
  readonly signal: AbortSignal
  readonly onProgress: (done: number, total: number, items: readonly EvalItem[]) => void
}

/** So many pictures in a row that could not be drawn mean that none will be. */
const MAX_FAILURES_IN_A_ROW = 5

/**
 * Draws, reads and scores every picture that the folder does not have yet, and writes the report. Each picture is noted
 * as soon as it is scored, so that a run which was ended, or broke, goes on where it stood.
 *
 * @returns the report of what there is, also when the signal ended the run
 * @throws when the target does not draw
 */
export async function runEval(run: EvalRun): Promise<EvalReport> {
  const startedAt = new Date().toISOString()
  await mkdir(join(run.folder, 'pictures'), { recursive: true })
  const log = join(run.folder, 'results.jsonl')
  const items = await readItems(log, run)
  const known = new Set(items.map(keyOf))
  const open = run.prompts
    .flatMap((prompt) => Array.from({ length: run.perPrompt }, (_, k) => ({ prompt, k })))
    .filter(({ prompt, k }) => !known.has(keyOf({ id: prompt.id, k })))
  const wished = run.prompts.length * run.perPrompt
  let failures = 0
  for (const { prompt, k } of open) {
    if (run.signal.aborted) break
    run.onProgress(items.length, wished, items)
    const item = await measure(run, prompt, k).catch((error: unknown) => {
      if (run.signal.aborted) return null
      throw error
    })
    if (item === null) break
    failures = item.picture === null ? failures + 1 : 0
    if (failures >= MAX_FAILURES_IN_A_ROW) {
      throw new Error(`${failures} pictures in a row could not be drawn: ${item.error}`)
    }
    // One that could not be drawn is tried again by the next run.
    if (item.picture !== null) await appendFile(log, `${JSON.stringify(item)}\n`)
    items.push(item)
  }
  run.onProgress(items.length, wished, items)
  const about = { ...run.about, suite: run.suite, wished, startedAt }
  const order = new Map(run.prompts.map(({ id }, index) => [id, index]))
  const sorted = items.toSorted(
    (a, b) => (order.get(a.id) ?? 0) - (order.get(b.id) ?? 0) || a.k - b.k,
  )
  const report = toReport(about, sorted, new Date())
  await writeWhole(join(run.folder, 'report.json'), `${JSON.stringify(report, null, 1)}\n`)
  await writeWhole(join(run.folder, 'report.html'), pageOf(report))
  return report
}

const keyOf = ({ id, k }: Pick<EvalItem, 'id' | 'k'>) => `${id}_${k}`

/** What earlier runs have measured of these prompts. Scores are made anew from what was read. */
async function readItems(log: string, run: EvalRun): Promise<EvalItem[]> {
  const text = await readFile(log, 'utf8').catch(() => '')
  // The last line of a run that was killed may be half a line, which the next one must not go on with.
  if (text !== '' && !text.endsWith('\n')) await appendFile(log, '\n')
  const prompts = new Map(run.prompts.map((prompt) => [prompt.id, prompt]))
  const items = new Map<string, EvalItem>()
  for (const line of text.split('\n')) {
    if (!line.endsWith('}')) continue
    const item = itemSchema.parse(JSON.parse(line))
    const prompt = prompts.get(item.id)
    if (prompt === undefined || prompt.prompt !== item.prompt || item.k >= run.perPrompt) continue
    items.set(keyOf(item), { ...item, tally: tallyOf(run.suite, prompt.texts, item.read) })
  }
  return [...items.values()]
}

async function measure(run: EvalRun, prompt: EvalPrompt, k: number): Promise<EvalItem> {
  const { suite, target, reader, signal, folder } = run
  const seed = seedOf(run.seed, prompt.id, k)
  const { id, prompt: asked, regions, language, texts } = prompt
  const about = { id, k, prompt: asked, regions, language, seed, expected: [...texts] }
  const startedAt = performance.now()
  const drawn = await target.draw({ prompt: asked, seed }, signal).catch((error: unknown) => {
    if (signal.aborted) throw error
    return error instanceof Error ? error : new Error(String(error))
  })
  const drawMs = Math.round(performance.now() - startedAt)
  const none = { picture: null, read: [], tally: tallyOf(suite, texts, []), readMs: 0 }
  if (drawn instanceof Error) return { ...about, ...none, drawMs, error: drawn.message }
  const reading = await reader.read(drawn, signal)
  const read = reading.ok ? reading.lines.map(({ text }) => text) : []
  const picture = `pictures/${keyOf({ id, k })}.${await extensionOf(drawn)}`
  await writeWhole(join(folder, picture), drawn)
  return {
    ...about,
    picture,
    read,
    tally: tallyOf(suite, texts, read),
    drawMs,
    readMs: reading.durationMs,
    error: reading.ok ? null : reading.error,
  }
}

/** Another picture for every prompt, the same in every run. */
function seedOf(seed: number, id: string, k: number): number {
  return createHash('sha256').update(`${seed} ${id} ${k}`).digest().readUInt32BE()
}

async function extensionOf(file: Uint8Array): Promise<string> {
  await readImageSize(file)
  return file[0] === 0x89 ? 'png' : file[0] === 0xff ? 'jpg' : 'webp'
}

/** A reader of the folder sees a whole file or none. */
async function writeWhole(path: string, content: string | Uint8Array): Promise<void> {
  await writeFile(`${path}.part`, content)
  await rename(`${path}.part`, path)
}
