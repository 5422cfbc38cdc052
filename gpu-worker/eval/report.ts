import { z } from 'zod'
import { PROTOCOLS, SUITES } from './protocol.ts'
import type { Suite } from './protocol.ts'
import { scoreOf, scoresBy } from './score.ts'

const tally = z.object({
  expected: z.number(),
  found: z.number(),
  nearness: z.number().nullable(),
})
/** One picture: a line of `results.jsonl`. */
export const itemSchema = z.object({
  id: z.string(),
  /** Which of its prompt's pictures it is, from 0. */
  k: z.int(),
  prompt: z.string(),
  regions: z.int(),
  language: z.enum(['en', 'es', 'zh']),
  seed: z.int(),
  /** In the folder of the report; null when it could not be drawn. */
  picture: z.string().nullable(),
  expected: z.array(z.string()),
  read: z.array(z.string()),
  tally,
  drawMs: z.number(),
  readMs: z.number(),
  /** Why there is no picture, or no reading of it; it counts as one without text. */
  error: z.string().nullable(),
})
export type EvalItem = z.output<typeof itemSchema>

const score = z.object({
  pictures: z.int(),
  words: z.number(),
  accuracy: z.number().nullable(),
  ned: z.number().nullable(),
})
const groups = z.array(z.object({ group: z.string(), score }))

export const reportSchema = z.object({
  suite: z.enum(SUITES),
  protocol: z.object({ name: z.string(), differs: z.string().nullable() }),
  /** False for the sets that come with the project: their figures stand beside no published one. */
  isPublishedSet: z.boolean(),
  prompts: z.array(z.string()),
  target: z.string(),
  model: z.string(),
  weightsHash: z.string().nullable(),
  notice: z.string().nullable(),
  ocr: z.object({ engine: z.string(), version: z.string() }),
  startedAt: z.iso.datetime(),
  endedAt: z.iso.datetime(),
  /** How many pictures were wished for; fewer items mean that the run was ended before. */
  wished: z.int(),
  failed: z.int(),
  overall: score,
  byRegions: groups,
  byLanguage: groups,
  medianDrawMs: z.number(),
  medianReadMs: z.number(),
  items: z.array(itemSchema),
})
export type EvalReport = z.output<typeof reportSchema>

export type ReportAbout = Pick<
  EvalReport,
  | 'prompts'
  | 'target'
  | 'model'
  | 'weightsHash'
  | 'notice'
  | 'ocr'
  | 'startedAt'
  | 'wished'
  | 'isPublishedSet'
> & { suite: Suite }

/** Pools what was measured so far. */
export function toReport(
  about: ReportAbout,
  items: readonly EvalItem[],
  endedAt: Date,
): EvalReport {
  const drawn = items.filter(({ error }) => error === null)
  return {
    ...about,
    protocol: PROTOCOLS[about.suite],
    endedAt: endedAt.toISOString(),
    failed: items.length - drawn.length,
    overall: scoreOf(items.map((item) => item.tally)),
    byRegions: scoresBy(items, ({ regions }) => regions),
    byLanguage: scoresBy(items, ({ language }) => language),
    medianDrawMs: medianOf(drawn.map(({ drawMs }) => drawMs)),
    medianReadMs: medianOf(drawn.map(({ readMs }) => readMs)),
    items: [...items],
  }
}

function medianOf(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? 0
}
