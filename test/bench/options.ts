/**
 * What the options that make drawing faster change in pictures of the bundled checkpoint: words read back, the distance to
 * the picture without the option, and time. As JSON on standard output, or into a file.
 *
 * Usage: npm run bench:options -- [--pictures 40] [--out FILE]
 *
 * The prompts are held-out ones, one seed each. The distance is the peak signal-to-noise ratio over all pictures together,
 * in dB of 8-bit values: above 40 nobody sees it, below 20 it is another picture. Time counts the drawing alone, one picture
 * after the other, and means little where the machine does anything else.
 */
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import sharp from 'sharp'
import { startEngine } from '../../gpu-worker/engine.ts'
import { readPrompts } from '../../gpu-worker/eval/prompts.ts'
import { openCheckpoint } from '../../gpu-worker/model/checkpoint.ts'
import { quantiseWeights } from '../../gpu-worker/model/quantise.ts'
import { compareTexts } from '../../gpu-worker/ocr/compare.ts'
import { createTextReader } from '../../gpu-worker/ocr/reader.ts'
import { describeMachine } from '../support/machine.ts'

const { values } = parseArgs({
  options: { pictures: { type: 'string', default: '40' }, out: { type: 'string' } },
})

const CHECKPOINT = fileURLToPath(new URL('../../gpu-worker/checkpoint', import.meta.url))
const PROMPTS = fileURLToPath(
  new URL('../../gpu-worker/eval/prompts/held-out.jsonl', import.meta.url),
)
const BLOCK_SIZE = 32

type Engine = Parameters<typeof startEngine>[0]
interface Variant {
  name: string
  engine: Omit<Engine, 'modelDir'>
  steps?: number
}

const VARIANTS: readonly Variant[] = [
  { name: 'as stored', engine: {} },
  { name: 'AR_WEIGHTS=int8', engine: { arWeights: 'int8' } },
  ...[0.5, 1, 2].map((stepCache) => ({ name: `STEP_CACHE=${stepCache}`, engine: { stepCache } })),
  ...[0.2, 0.4, 0.7].map((firstBlockCache) => ({
    name: `FIRST_BLOCK_CACHE=${firstBlockCache}`,
    engine: { firstBlockCache },
  })),
  ...[7, 5, 3].map((steps) => ({ name: `${steps} steps`, engine: {}, steps })),
]

interface Drawn {
  pixels: Buffer
  /** Of the words of the prompt. */
  accuracy: number
  ms: number
}

const prompts = (await readPrompts('ours', [PROMPTS])).slice(0, Number(values.pictures))
const dir = await mkdtemp(join(tmpdir(), 'bench-options-'))
const reader = createTextReader()
try {
  await cp(CHECKPOINT, dir, { recursive: true })
  await quantiseWeights(await openCheckpoint(dir), { blockSize: BLOCK_SIZE })
  const results = []
  let plain: Drawn[] = []
  for (const variant of VARIANTS) {
    const drawn = await drawAll(variant)
    if (plain.length === 0) plain = drawn
    results.push(summarize(variant.name, drawn, plain))
    console.error(JSON.stringify(results.at(-1)))
  }
  const report = { machine: describeMachine(), pictures: prompts.length, results }
  const text = `${JSON.stringify(report, null, 2)}\n`
  if (values.out === undefined) console.log(text)
  else await writeFile(values.out, text)
} finally {
  reader.close()
  await rm(dir, { recursive: true })
}

async function drawAll({ engine: options, steps }: Variant): Promise<Drawn[]> {
  const engine = await startEngine({ modelDir: dir, ...options })
  try {
    const drawn: Drawn[] = []
    for (const [seed, { prompt, texts }] of prompts.entries()) {
      const startMs = performance.now()
      const request = {
        prompt,
        seed,
        format: 'png',
        ...(steps !== undefined && { steps }),
      } as const
      const { bytes } = await engine.generate(request)
      const ms = performance.now() - startMs
      const reading = await reader.read(bytes)
      if (!reading.ok) throw new Error(`a picture could not be read: ${reading.error}`)
      const { wordAccuracy } = compareTexts(
        texts,
        reading.lines.map(({ text }) => text),
      )
      drawn.push({ pixels: await sharp(bytes).raw().toBuffer(), accuracy: wordAccuracy, ms })
    }
    return drawn
  } finally {
    await engine.close()
  }
}

function summarize(option: string, drawn: readonly Drawn[], plain: readonly Drawn[]) {
  const mean = (numbers: number[]) => numbers.reduce((sum, one) => sum + one, 0) / numbers.length
  const errors = drawn.map(({ pixels }, index) => {
    const other = plain[index]?.pixels ?? pixels
    return mean([...pixels].map((value, at) => (value - (other[at] ?? 0)) ** 2))
  })
  const error = mean(errors)
  return {
    option,
    /** Mean over pictures of the share of words that were read. */
    words: Number(mean(drawn.map(({ accuracy }) => accuracy)).toFixed(3)),
    /** Null: every picture is the same. */
    psnrDb: error === 0 ? null : Number((10 * Math.log10(255 ** 2 / error)).toFixed(1)),
    identical: errors.filter((one) => one === 0).length,
    medianMs: Math.round(
      drawn.map(({ ms }) => ms).toSorted((a, b) => a - b)[drawn.length >> 1] ?? 0,
    ),
  }
}
