/**
 * Every stage of the engine against its floor.
 *
 * Usage: npm run bench:engine -- [--provider cpu|cuda] [--rounds N] [--threads N] [--models tiny,half,full] [--out FILE]
 *
 * Models: `tiny`, the reference folder; `half`, half a billion random parameters; `full`, the published dimensions with
 * random numbers (36 GB are written to the temporary folder first). On a processor the first two are measured, on a card
 * `full` at 1024 and 2048 pixels. Each model has a fresh process. Times are medians with raw values, after one run that
 * does not count.
 *
 * The floor of a stage is the longer of two times: its bytes at the rate of memory, its operations at the rate of
 * arithmetic. On a card both are the maker's figures (H100 unless the name says H200); on a processor they are measured in
 * the same process by two graphs of one product each, so that a floor is what this runtime reaches on this machine.
 *
 * The card's path has never been run: `--provider cuda` is what proves it.
 */
import { execFile, execFileSync } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'

import { CALLER_FOLDER } from '../../gpu-worker/cli/env.ts'
import { openCheckpoint } from '../../gpu-worker/model/checkpoint.ts'
import type { Checkpoint, TensorFolder } from '../../gpu-worker/model/checkpoint.ts'
import { buildDecoder } from '../../gpu-worker/model/decoder.ts'
import { createRotaryTable } from '../../gpu-worker/model/rope.ts'
import { createGraph } from '../../gpu-worker/onnx/graph.ts'
import { openPixelDecoder } from '../../gpu-worker/pipeline/decode.ts'
import { createDecoderBatch, createRow } from '../../gpu-worker/pipeline/decoder-batch.ts'
import { openDenoiser } from '../../gpu-worker/pipeline/denoise.ts'
import { encodeImage, toPixels } from '../../gpu-worker/pipeline/encode.ts'
import { openGlyphEncoder } from '../../gpu-worker/pipeline/glyph-encoder.ts'
import { createNoise } from '../../gpu-worker/pipeline/noise.ts'
import { planPositions } from '../../gpu-worker/pipeline/positions.ts'
import { openSession, requireProvider, RUNTIME_VERSION } from '../../gpu-worker/pipeline/session.ts'
import type { Provider, Session } from '../../gpu-worker/pipeline/session.ts'
import { createUniforms } from '../../gpu-worker/pipeline/uniforms.ts'
import { describeMachine } from '../support/machine.ts'
import { HALF_BILLION, PUBLISHED_SIZES, writeRealCheckpoint } from '../support/real-checkpoint.ts'

const GOLDEN = fileURLToPath(new URL('../fixtures/golden/checkpoint', import.meta.url))
const PROCESSOR = join(GOLDEN, 'processor')
const MODEL_TIMEOUT_MS = 3_600_000
const BATCHES = [1, 4, 16]
/** Tokens per run while the time of one is measured. */
const CHUNK = 16

interface Plan {
  /** Pixels of the square pictures. */
  sides: readonly number[]
  /** Tokens of the prompt; also what stands in the cache when the time of a token is taken. */
  prompt: number
}

const PLANS: Record<string, Plan> = {
  tiny: { sides: [256], prompt: 64 },
  half: { sides: [256], prompt: 128 },
  full: { sides: [1024, 2048], prompt: 1024 },
}

/** Bytes and operations per second of a card by its name: memory, and dense products in bfloat16. */
const CARDS: readonly (readonly [RegExp, Rates])[] = [
  [/H200/, { bytes: 4.8e12, operations: 989e12 }],
  [/./, { bytes: 3.35e12, operations: 989e12 }],
]

interface Rates {
  bytes: number
  operations: number
}

interface Work {
  bytes: number
  operations: number
}

interface Row {
  stage: string
  ms: number
  raw: number[]
  floorMs: number | null
  /** Of the process, in MB, after the stage. */
  residentMb: number
}

const { values } = parseArgs({
  options: {
    provider: { type: 'string', default: 'cpu' },
    rounds: { type: 'string', default: '3' },
    threads: { type: 'string' },
    models: { type: 'string' },
    out: { type: 'string' },
    model: { type: 'string' },
    dir: { type: 'string' },
  },
})
const provider: Provider = values.provider === 'cuda' ? 'cuda' : 'cpu'
const rounds = Number(values.rounds)
const OPTIONS = {
  compute: provider === 'cuda' ? 'bfloat16' : 'float32',
  provider,
  ...(values.threads === undefined ? {} : { threads: Number(values.threads) }),
} as const
const BYTES_PER_WEIGHT = provider === 'cuda' ? 2 : 4

if (values.model !== undefined && values.dir !== undefined) {
  console.log(JSON.stringify(await measureModel(values.model, values.dir)))
} else {
  await runAll()
}

async function runAll(): Promise<void> {
  await requireProvider(provider)
  const models = (values.models ?? (provider === 'cuda' ? 'full' : 'tiny,half')).split(',')
  const loadBefore = loadavg()[0] ?? 0
  const results: Record<string, unknown>[] = []
  for (const model of models) {
    const dir = await prepare(model)
    try {
      const result = await runModel(model, dir)
      results.push(result)
      printTable(model, result)
    } finally {
      if (dir !== GOLDEN) await rm(dir, { recursive: true, force: true })
    }
  }
  const report = {
    ...describeMachine(),
    loadBefore: Math.round(loadBefore * 100) / 100,
    onnxruntime: RUNTIME_VERSION,
    provider,
    card: provider === 'cuda' ? readCard() : null,
    threads: OPTIONS.threads ?? null,
    rounds,
    results,
  }
  if (values.out === undefined) return
  await writeFile(resolve(CALLER_FOLDER, values.out), `${JSON.stringify(report, null, 2)}\n`)
}

async function prepare(model: string): Promise<string> {
  if (model === 'tiny') return GOLDEN
  const dir = await mkdtemp(join(tmpdir(), `engine-${model}-`))
  const sizes = model === 'half' ? HALF_BILLION : PUBLISHED_SIZES
  await writeRealCheckpoint(dir, PROCESSOR, { sizes, isRandom: true })
  return dir
}

async function runModel(model: string, dir: string): Promise<{ rates: Rates; rows: Row[] }> {
  const flags = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']
  const own = ['--provider', provider, '--rounds', String(rounds), '--model', model, '--dir', dir]
  const threads = values.threads === undefined ? [] : ['--threads', values.threads]
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [...flags, import.meta.filename, ...own, ...threads],
    { timeout: MODEL_TIMEOUT_MS },
  )
  return JSON.parse(stdout)
}

async function measureModel(model: string, dir: string) {
  const plan = PLANS[model]
  if (!plan) throw new Error(`no model ${model}`)
  const first = provider === 'cuda' ? rateCard() : await rateProcessor()
  const rows: (Omit<Row, 'floorMs'> & { work: Work | null })[] = []
  const note = async (stage: string, raw: number[], work: Work | null) => {
    const sorted = raw.toSorted((a, b) => a - b)
    rows.push({
      stage,
      ms: round(sorted[Math.floor(sorted.length / 2)] ?? NaN),
      raw: sorted.map(round),
      work,
      residentMb: await readResidentMb(),
    })
  }
  const checkpoint = await openCheckpoint(dir)
  await measureWriter(checkpoint, plan, note)
  await measurePainter(checkpoint, plan, note)
  // The machine may have been busy with other work at one of the two times.
  const last = provider === 'cuda' ? first : await rateProcessor()
  const rates = {
    bytes: Math.max(first.bytes, last.bytes),
    operations: Math.max(first.operations, last.operations),
  }
  const parameters: Record<string, number> = {}
  for (const folder of ['vision_language_encoder', 'transformer', 'vae', 'text_encoder'] as const) {
    parameters[folder] = await countWeights(checkpoint, folder, /./)
  }
  const withFloors = rows.map(({ work, ...row }) => ({
    ...row,
    floorMs: work && round(floorOf(work, rates)),
  }))
  return { model, plan, parameters, rates, rows: withFloors }
}

type Note = (stage: string, raw: number[], work: Work | null) => Promise<void>

async function measureWriter(checkpoint: Checkpoint, plan: Plan, note: Note): Promise<void> {
  const { autoregressive: config, generation } = checkpoint
  const graph = buildDecoder({
    config,
    tensors: await checkpoint.tensors('vision_language_encoder'),
    compute: OPTIONS.compute,
    choice: 'nucleus',
    sampling: { ...generation, codebookSize: config.codebookSize },
    withLogits: false,
  })
  const openedAt = performance.now()
  const session = await openSession(graph, OPTIONS)
  await note('load writer', [performance.now() - openedAt], null)
  const used = /^(model\.language_model\.(layers|norm)|lm_head)/
  const weights = await countWeights(checkpoint, 'vision_language_encoder', used)
  const cacheOf = (tokens: number) =>
    2 * config.layerCount * config.keyValueHeadCount * config.headDim * tokens * BYTES_PER_WEIGHT
  const newRow = (seed: number) => {
    const total = CHUNK * (rounds + 2)
    const grids = { large: { rows: total, columns: 1 }, preview: null }
    const ids = Array.from({ length: plan.prompt }, (_, index) => (index * 31 + seed) % 256)
    const rotary = createRotaryTable(planPositions(ids.length, grids), config.rope)
    return createRow({ ids, rotary, draws: { uniforms: createUniforms(seed, total) } })
  }
  const reading = await repeat(() => createDecoderBatch(session, config).read(newRow(1), 1))
  // Only the last token of a prompt goes through the head.
  const head = await countWeights(checkpoint, 'vision_language_encoder', /^lm_head/)
  const operations = 2 * (weights - head) * plan.prompt + 2 * head
  const read = { bytes: weights * BYTES_PER_WEIGHT, operations }
  await note(`read a prompt of ${plan.prompt} tokens`, reading, read)
  for (const size of BATCHES) {
    const batch = createDecoderBatch(session, config, size)
    const rows = Array.from({ length: size }, (_, index) => newRow(index + 1))
    for (const row of rows) await batch.read(row, 1)
    const chunks = await repeat(() => batch.write(rows, CHUNK))
    const bytes = weights * BYTES_PER_WEIGHT + size * cacheOf(plan.prompt)
    const perToken = chunks.map((durationMs) => durationMs / CHUNK)
    await note(`token, batch ${size}`, perToken, { bytes, operations: 2 * weights * size })
  }
  await session.close()
}

async function measurePainter(checkpoint: Checkpoint, plan: Plan, note: Note): Promise<void> {
  const { transformer: config, vae, patchPixels } = checkpoint
  const openedAt = performance.now()
  const glyphs = await openGlyphEncoder(checkpoint, { ...OPTIONS, compute: 'float32' })
  const denoiser = await openDenoiser(checkpoint, OPTIONS)
  const decoder = await openPixelDecoder(checkpoint, OPTIONS)
  await note('load painter', [performance.now() - openedAt], null)
  const used = /^transformer_blocks\.\d+\.(attn1|ff)\./
  const weights = await countWeights(checkpoint, 'transformer', used)
  const glyph = await glyphs.encode("A sign 'Grand Opening'")
  const glyphNull = await glyphs.encode('')
  for (const side of plan.sides) {
    const tokens = (side / patchPixels) ** 2
    const priorIds = Array.from({ length: tokens }, (_, index) => index % config.codebookSize)
    const conditions = await denoiser.prepare({
      glyph,
      glyphNull,
      priorIds,
      width: side,
      height: side,
    })
    const patches = createNoise(1, tokens * config.inChannels * config.patchSize ** 2)
    const steps = await repeat(() => denoiser.evaluate(patches, 979, conditions, true))
    // Two evaluations: with and without the prompt.
    const attention = 4 * tokens ** 2 * config.innerSize * config.layerCount
    const operations = 2 * (2 * weights * tokens + attention)
    const bytes = 2 * weights * BYTES_PER_WEIGHT
    await note(`step with guidance, ${side} pixels`, steps, { bytes, operations })
    const grid = { rows: side / vae.scale, columns: side / vae.scale }
    const latents = createNoise(2, vae.latentChannels * grid.rows * grid.columns)
    const decoded = await repeat(() => decoder.decode(latents, grid))
    const work = await workOfDecoder(checkpoint, side)
    await note(`latents to pixels, ${side} pixels`, decoded, work)
    const planes = await decoder.decode(latents, grid)
    const encoded = await repeat(() =>
      encodeImage(toPixels(planes), { width: side, height: side }, 'png'),
    )
    await note(`file (png), ${side} pixels`, encoded, null)
  }
  await glyphs.close()
  await denoiser.close()
  await decoder.close()
}

/** Each convolution's weights are used once per pixel of its size, which doubles from block to block. */
async function workOfDecoder({ vae, ...checkpoint }: Checkpoint, side: number): Promise<Work> {
  const tensors = await checkpoint.tensors('vae')
  let operations = 0
  let weights = 0
  for (const name of tensors.names()) {
    const { shape } = tensors.get(name)
    if (!name.startsWith('decoder.') || shape.length !== 4) continue
    const count = shape.reduce((product, size) => product * size, 1)
    const block = /up_blocks\.(\d+)/.exec(name)?.[1]
    const doublings = name.startsWith('decoder.conv_out')
      ? vae.blockChannels.length - 1
      : Number(block ?? 0) + (name.includes('upsamplers') ? 1 : 0)
    operations += 2 * count * ((side / vae.scale) * 2 ** doublings) ** 2
    weights += count
  }
  return { bytes: 4 * weights, operations }
}

async function countWeights(
  checkpoint: Checkpoint,
  folder: TensorFolder,
  pattern: RegExp,
): Promise<number> {
  const tensors = await checkpoint.tensors(folder)
  return tensors
    .names()
    .filter((name) => pattern.test(name))
    .reduce((sum, name) => sum + tensors.get(name).shape.reduce((a, b) => a * b, 1), 0)
}

/** What the runtime reaches here: a large product of matrices, and a large matrix with a vector. */
async function rateProcessor(): Promise<Rates> {
  const [rows, columns, tall] = [512, 8192, 65_536]
  const operations = await timeProduct(rows, columns)
  const bytes = await timeProduct(1, tall)
  return {
    operations: (2 * 1024 * rows * columns) / (operations / 1_000),
    bytes: (4 * 1024 * tall) / (bytes / 1_000),
  }
}

/** Milliseconds of [rows, 1024] x [1024, columns], the best of twenty. */
async function timeProduct(rows: number, columns: number): Promise<number> {
  const g = createGraph({ name: 'product', compute: 'float32' })
  const a = g.input('a', 'float32', [rows, 1024])
  const b = g.input('b', 'float32', [columns, 1024])
  g.output(g.op('Gemm', [a, b], { transB: 1 }), 'y', 'float32', [rows, columns])
  const session: Session = await openSession(g.toBytes(), OPTIONS)
  const feeds = {
    a: { data: createNoise(1, rows * 1024), shape: [rows, 1024] },
    b: { data: new Float32Array(columns * 1024).fill(0.5), shape: [columns, 1024] },
  }
  let best = Infinity
  for (let round = 0; round < 20; round += 1) {
    const startedAt = performance.now()
    await session.run(feeds)
    best = Math.min(best, performance.now() - startedAt)
  }
  await session.close()
  return best
}

function rateCard(): Rates {
  const name = readCard()
  const known = CARDS.find(([pattern]) => pattern.test(name))
  if (!known) throw new Error(`no figures for ${name}`)
  return known[1]
}

function readCard(): string {
  const flags = ['--query-gpu=name', '--format=csv,noheader']
  return execFileSync('nvidia-smi', flags, { encoding: 'utf8' }).trim()
}

function floorOf({ bytes, operations }: Work, rates: Rates): number {
  return 1_000 * Math.max(bytes / rates.bytes, operations / rates.operations)
}

/** Milliseconds of each round, after one that does not count. */
async function repeat(work: () => Promise<unknown>): Promise<number[]> {
  await work()
  const durations: number[] = []
  for (let round = 0; round < rounds; round += 1) {
    const startedAt = performance.now()
    await work()
    durations.push(performance.now() - startedAt)
  }
  return durations
}

async function readResidentMb(): Promise<number> {
  const status = await readFile('/proc/self/status', 'utf8')
  return Math.round((Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024) / 1e6)
}

function round(value: number): number {
  return Number(value.toPrecision(4))
}

function printTable(model: string, { rates, rows }: { rates: Rates; rows: Row[] }): void {
  const giga = (value: number) => (value / 1e9).toFixed(1)
  console.log(
    `\n${model}: memory ${giga(rates.bytes)} GB/s, arithmetic ${giga(rates.operations)} GFLOP/s`,
  )
  console.log(
    `${'stage'.padEnd(36)}${'ms'.padStart(10)}${'floor'.padStart(10)}   times  resident MB`,
  )
  for (const { stage, ms, floorMs, residentMb } of rows) {
    const times = floorMs === null ? '' : (ms / floorMs).toFixed(1)
    console.log(
      stage.padEnd(36) +
        String(ms).padStart(10) +
        String(floorMs ?? '').padStart(10) +
        times.padStart(8) +
        String(residentMb).padStart(13),
    )
  }
}
