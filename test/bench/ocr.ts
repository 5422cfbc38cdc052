/**
 * How well the reader of the text guarantee reads what is drawn perfectly, by script, font and size, and how often it
 * overlooks one wrong letter: the error of the ruler, as JSON on standard output.
 *
 *   node --experimental-strip-types test/bench/ocr.ts [--pictures 6]
 */
import { parseArgs } from 'node:util'
import { BUNDLED, readPrompts } from '../../gpu-worker/eval/prompts.ts'
import { compareTexts } from '../../gpu-worker/ocr/compare.ts'
import { createTextReader } from '../../gpu-worker/ocr/reader.ts'
import { describeMachine } from '../support/machine.ts'
import { drawTexts } from '../support/text-pictures.ts'
import type { FontName } from '../support/text-pictures.ts'

const { values } = parseArgs({ options: { pictures: { type: 'string', default: '6' } } })
const count = Number(values.pictures)

const LATIN: FontName[] = ['sans', 'sans-bold', 'serif', 'serif-italic', 'condensed', 'script']
const CHINESE: FontName[] = ['chinese-serif', 'chinese-round']
const SIZES = [12, 16, 24, 32, 48, 96]
const TEXTS_PER_PICTURE = 3
/** Dark on light, light on dark, and two of little contrast. */
const COLOURS = [
  ['#111111', '#ffffff'],
  ['#ffffff', '#102040'],
  ['#7a1f1f', '#f4d9c6'],
  ['#e8e8e8', '#5a7d5a'],
] as const

let state = 20_261_125
/** Park and Miller's generator: the same texts in every run. */
function random(): number {
  state = (state * 48_271) % 2_147_483_647
  return state / 2_147_483_647
}
const pick = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!

const prompts = await readPrompts('ours', [BUNDLED.ours])
const textsOf = (language: string) => [
  ...new Set(prompts.filter((one) => one.language === language).flatMap(({ texts }) => texts)),
]

/** One letter of the longest word is another of its kind. */
function misspell(text: string, pool: string): string {
  const places = [...text.matchAll(/[\p{L}]/gu)].map(({ index }) => index)
  const at = pick(places)
  const was = text[at] ?? ''
  const isUpper = was !== was.toLowerCase()
  for (;;) {
    const letter = pick(Array.from(pool))
    const now = isUpper ? letter.toUpperCase() : letter
    if (now.toLowerCase() !== was.toLowerCase()) return text.slice(0, at) + now + text.slice(at + 1)
  }
}

const reader = createTextReader()
const readMs: Record<string, number[]> = {}

async function read(texts: string[], font: FontName, sizePx: number, index: number) {
  const side = sizePx > 32 ? 1024 : 512
  const [colour, background] = COLOURS[index % COLOURS.length]!
  const drawn = texts.map((text) => ({ text, font, sizePx, colour }))
  const reading = await reader.read(
    await drawTexts(drawn, { width: side, height: side, background }),
  )
  if (!reading.ok) throw new Error(reading.error)
  ;(readMs[side] ??= []).push(reading.durationMs)
  return reading.lines.map(({ text }) => text)
}

interface Cell {
  script: string
  font: FontName
  size_px: number
  words: number
  word_accuracy: number
  ned: number
  /** Of perfect pictures, the share that would count as a miss. */
  false_miss: number
  /** Of pictures with one wrong letter, the share that would count as right. */
  false_pass: number
}

const cells: Cell[] = []
const round = (value: number) => Math.round(value * 1e4) / 1e4
const examples: { script: string; expected: string[]; read: string[] }[] = []
for (const [script, language, fonts, pool] of [
  ['English', 'en', LATIN, 'abcdefghijklmnopqrstuvwxyz'],
  ['Spanish', 'es', LATIN, 'abcdefghijlmnopqrstuvxyzáéíóúñ'],
  ['Chinese', 'zh', CHINESE, textsOf('zh').join('')],
] as const) {
  const texts = textsOf(language)
  for (const font of fonts) {
    for (const sizePx of SIZES) {
      let [words, found, near, misses, passes] = [0, 0, 0, 0, 0]
      for (let index = 0; index < count; index += 1) {
        const expected = Array.from({ length: TEXTS_PER_PICTURE }, () => pick(texts))
        const lines = await read(expected, font, sizePx, index)
        const right = compareTexts(expected, lines)
        words += right.wordCount
        found += right.wordAccuracy * right.wordCount
        near += right.ned * right.wordCount
        if (right.wordAccuracy < 1) {
          misses += 1
          if (examples.length < 20) examples.push({ script, expected, read: lines })
        }
        const [first = '', ...rest] = expected
        const wrong = await read([misspell(first, pool), ...rest], font, sizePx, index)
        if (compareTexts(expected, wrong).wordAccuracy === 1) passes += 1
      }
      cells.push({
        script,
        font,
        size_px: sizePx,
        words,
        word_accuracy: round(found / words),
        ned: round(near / words),
        false_miss: round(misses / count),
        false_pass: round(passes / count),
      })
    }
    console.error(`${script} ${font}`)
  }
}
reader.close()

function pooled(rows: Cell[]) {
  const words = rows.reduce((sum, cell) => sum + cell.words, 0)
  const mean = (name: 'word_accuracy' | 'ned') =>
    round(rows.reduce((sum, cell) => sum + cell[name] * cell.words, 0) / words)
  const share = (name: 'false_miss' | 'false_pass') =>
    round(rows.reduce((sum, cell) => sum + cell[name], 0) / rows.length)
  return {
    words,
    pictures: rows.length * count,
    word_accuracy: mean('word_accuracy'),
    ned: mean('ned'),
    false_miss: share('false_miss'),
    false_pass: share('false_pass'),
  }
}
const by = (name: 'script' | 'size_px' | 'font') =>
  [
    ...Map.groupBy(cells, (cell) => `${cell.script} ${name === 'script' ? '' : cell[name]}`.trim()),
  ].map(([group, rows]) => ({ group, ...pooled(rows) }))
const median = (list: number[]) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)]
console.log(
  JSON.stringify(
    {
      machine: describeMachine(),
      engine: { name: reader.engine, version: reader.version },
      pictures_per_cell: count,
      texts_per_picture: TEXTS_PER_PICTURE,
      median_read_ms: Object.fromEntries(
        Object.entries(readMs).map(([side, list]) => [`${side}x${side}`, median(list)]),
      ),
      by_script: by('script'),
      by_size: by('size_px'),
      by_font: by('font'),
      cells,
      examples,
    },
    null,
    1,
  ),
)
