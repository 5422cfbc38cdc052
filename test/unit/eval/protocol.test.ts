import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { compareReports } from '../../../gpu-worker/eval/compare.ts'
import { parseEvalOptions } from '../../../gpu-worker/eval/options.ts'
import {
  BUNDLED,
  PromptFileError,
  readPrompts,
  takeInTurn,
} from '../../../gpu-worker/eval/prompts.ts'
import { closestMatch, SUITES, tallyOf } from '../../../gpu-worker/eval/protocol.ts'
import { toReport } from '../../../gpu-worker/eval/report.ts'
import type { EvalItem } from '../../../gpu-worker/eval/report.ts'
import { scoreOf } from '../../../gpu-worker/eval/score.ts'

describe('CVTG-2K', () => {
  test('asks whether a word was read, not how often, and keeps its punctuation', () => {
    expect(tallyOf('cvtg2k', ['Sale Sale', 'Today!'], ['SALE today'])).toMatchObject({
      expected: 3,
      found: 2,
    })
  })

  test('takes the nearness of each word to the nearest one read', () => {
    const { nearness } = tallyOf('cvtg2k', ['grand opening'], ['grand openimg party'])
    expect(nearness).toBeCloseTo(2 - 1 / (7 + 1e-5), 9)
    expect(tallyOf('cvtg2k', ['open'], []).nearness).toBe(0)
  })

  // Each of these is what Python's difflib.get_close_matches(word, list, 1, 0) answers.
  test.each([
    ['opening', ['openimg', 'open', 'ending'], 'openimg'],
    ['abcd', ['bcde', 'abce'], 'bcde'],
    ['appel', ['ape', 'apple', 'peach', 'puppy'], 'apple'],
    ['x', ['a', 'b'], 'b'],
    ['tide', ['diet', 'edit'], 'diet'],
    ['', ['a'], 'a'],
  ])('finds of %j among %j the word %j', (word, list, closest) => {
    expect(closestMatch(word, list)).toBe(closest)
  })
})

describe('LongText-Bench', () => {
  test('compares English words as a multiset, without punctuation and order', () => {
    expect(tallyOf('longtext', ['The dogs, the gate.'], ['gate the Dogs'])).toEqual({
      expected: 4,
      found: 3,
      nearness: null,
    })
  })
  test('compares Chinese by character, whatever the lines', () => {
    expect(tallyOf('longtext', ['新年快乐，万事如意。'], ['快乐新年', '万事 如'])).toMatchObject({
      expected: 8,
      found: 7,
    })
  })
})

test('a score is pooled over words, not over pictures', () => {
  const tallies = [
    { expected: 1, found: 1, nearness: 1 },
    { expected: 9, found: 0, nearness: 4.5 },
  ]
  expect(scoreOf(tallies)).toEqual({ pictures: 2, words: 10, accuracy: 0.1, ned: 0.55 })
})

describe('prompt files', () => {
  let folder: string
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'prompts-'))
  })
  afterAll(() => rm(folder, { recursive: true }))

  test('that come with the project are there for every suite, with texts in each prompt', async () => {
    const sizes: Record<string, number> = {}
    for (const suite of SUITES) {
      const prompts = await readPrompts(suite, [BUNDLED[suite]])
      sizes[suite] = prompts.length
      for (const { prompt, texts } of prompts) {
        expect(texts.length).toBeGreaterThan(0)
        for (const text of texts) expect(prompt).toContain(text)
      }
    }
    expect(sizes).toEqual({ ours: 200, cvtg2k: 40, longtext: 16 })
  })

  test('of CVTG-2K are a folder of files by number of regions', async () => {
    const list = (prompt: string) =>
      JSON.stringify({ data_list: [{ index: 0, prompt, sentence: 'x' }] })
    await writeFile(join(folder, '2.json'), list("signs 'A b' and 'C'"))
    await writeFile(join(folder, '3.json'), list("signs 'A', 'B' and 'C'"))
    expect(await readPrompts('cvtg2k', [folder])).toMatchObject([
      { id: '2-0', texts: ['A b', 'C'], regions: 2 },
      { id: '3-0', texts: ['A', 'B', 'C'], regions: 3 },
    ])
  })

  test('of another kind are refused with their name', async () => {
    const file = join(folder, 'bad.jsonl')
    await writeFile(file, '{"text": []}\n')
    await expect(readPrompts('ours', [file])).rejects.toThrow(/bad\.jsonl: entry 1 is no prompt/)
    await writeFile(file, 'not json')
    await expect(readPrompts('ours', [file])).rejects.toThrow(PromptFileError)
  })

  test('a part of them is like the whole', async () => {
    const part = takeInTurn(await readPrompts('cvtg2k', [BUNDLED.cvtg2k]), 8)
    expect(part.map(({ regions }) => regions)).toEqual([2, 2, 3, 3, 4, 4, 5, 5])
  })
})

describe('a comparison of two reports', () => {
  const item = (id: string, found: number): EvalItem => ({
    id,
    k: 0,
    prompt: id,
    regions: 2,
    language: 'en',
    seed: 1,
    picture: 'p.png',
    expected: [],
    read: [],
    tally: { expected: 4, found, nearness: found },
    drawMs: 1,
    readMs: 1,
    error: null,
  })
  const report = (founds: number[]) =>
    toReport(
      {
        suite: 'ours',
        prompts: [],
        target: 'local',
        model: 'm',
        weightsHash: null,
        notice: null,
        ocr: { engine: 'e', version: '1' },
        startedAt: new Date(0).toISOString(),
        wished: founds.length,
        isPublishedSet: false,
      },
      founds.map((found, index) => item(`p${index}`, found)),
      new Date(0),
    )
  const many = Array.from({ length: 60 }, (_, index) => index % 4)

  test('of one report with itself shows no difference', () => {
    const [all] = compareReports(report(many), report(many))
    expect(all).toMatchObject({ group: 'all', difference: 0, interval: { low: 0, high: 0 } })
  })
  test('sees that one is better throughout, and is the same each time', () => {
    const rows = compareReports(report(many), report(many.map((found) => found + 1)))
    expect(rows[0]).toMatchObject({ metric: 'accuracy', difference: 0.25 })
    expect(rows[0]!.interval.low).toBeCloseTo(0.25, 9)
    expect(rows[0]!.interval.high).toBeCloseTo(0.25, 9)
    const noisy = report(many.map((found, index) => (index % 7 === 0 ? 4 : found)))
    const twice = [compareReports(report(many), noisy), compareReports(report(many), noisy)]
    expect(twice[0]).toEqual(twice[1])
    const { interval, difference } = twice[0]![0]!
    expect(interval.low).toBeGreaterThan(0)
    expect(interval.low).toBeLessThan(difference)
    expect(interval.high).toBeGreaterThan(difference)
  })
  test('of reports without a common prompt is refused', () => {
    const other = report([1])
    other.items[0]!.id = 'another'
    expect(() => compareReports(report([1]), other)).toThrow(/share no prompt/)
  })
})

test.each([
  [['--suite', 'none'], /--suite must be one of/],
  [['--suite', 'ours', '--n', '0'], /--n must be a whole number from 1/],
  [['--suite', 'ours', '--target', 'ftp://x'], /--target/],
  [['--compare', 'a'], /takes two reports/],
  [['--suite', 'ours', '--size', 'big'], /--size/],
])('%j is refused', (args, message) => {
  expect(() => parseEvalOptions(args, '/')).toThrow(message)
})
