/**
 * Every stage of the engine against its floor, the backends side by side.
 *
 * Usage: npm run bench:engine -- [--provider cpu|cuda] [--backend node|capi|both] [--rounds N] [--threads N]
 *   [--models tiny,half,full] [--parts writer,painter] [--sides 256,512] [--batches 1,4,16] [--quick] [--out FILE]
 *
 * Models: `tiny`, the reference folder; `half`, half a billion random parameters; `full`, the published dimensions with
 * random numbers (36 GB are written to the temporary folder first). On a processor the first two are measured, on a card
 * `full` at 1024 and 2048 pixels.
 *
 * Each model has a fresh process, in which the backends take turns from run to run, so that what else the machine does
 * falls on both alike. Times are medians with raw values, after one run that does not count; a run that took longer than
 * half a minute is followed by one more alone. Memory is that of a process of its own per backend, which runs every stage
 * once: after the stage, and the most until then; with --quick it is that of the measuring process, of all together. On a processor weights count in it where they are mapped from the file.
 *
 * The floor of a stage is the longer of two times: its bytes at the rate of memory, its operations at the rate of
 * arithmetic. On a card both are the maker's figures (H100 unless the name says H200); on a processor they are measured in
 * the same process by two graphs of one product each, so that a floor is what this runtime reaches on this machine.
 *
 * The card's path has never been run: `--provider cuda --backend both` is what proves it, and what decides which backend is
 * the default there (`DEFAULT_BACKEND`).
 */
import { execFile, execFileSync } from 'node:child_process'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { loadavg, tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'

import { CALLER_FOLDER } from '../../gpu-worker/cli/env.ts'
import { openCheckpoint, TENSOR_FOLDERS } from '../../gpu-worker/model/checkpoint.ts'
import type { Checkpoint, TensorFolder } from '../../gpu-worker/model/checkpoint.ts'
import { quantiseWeights } from '../../gpu-worker/model/quantise.ts'
import { openQuantised } from '../../gpu-worker/model/quantised.ts'
import { createRotaryTable } from '../../gpu-worker/model/rope.ts'
import { createGraph } from '../../gpu-worker/onnx/graph.ts'
import { openPixelDecoder } from '../../gpu-worker/pipeline/decode.ts'
import { createRow } from '../../gpu-worker/pipeline/decoder-rows.ts'
import { openDecoder } from '../../gpu-worker/pipeline/decoder-session.ts'
import { openDenoiser } from '../../gpu-worker/pipeline/denoise.ts'
import { encodeImage, toPixels } from '../../gpu-worker/pipeline/encode.ts'
import { openGlyphEncoder } from '../../gpu-worker/pipeline/glyph-encoder.ts'
import type { StageOptions } from '../../gpu-worker/pipeline/glyph-encoder.ts'
import { createNoise } from '../../gpu-worker/pipeline/noise.ts'
import { planPositions } from '../../gpu-worker/pipeline/positions.ts'
import {
  BACKENDS,
  openSession,
  requireProvider,
  runtimeVersion,
} from '../../gpu-worker/pipeline/session.ts'
import type { Provider, Session } from '../../gpu-worker/pipeline/session.ts'
import { createUniforms } from '../../gpu-worker/pipeline/uniforms.ts'
import { describeMachine } from '../support/machine.ts'
import { HALF_BILLION, PUBLISHED_SIZES, writeRealCheckpoint } from '../support/real-checkpoint.ts'

const GOLDEN = fileURLToPath(new URL('../fixtures/golden/checkpoint', import.meta.url))
const PROCESSOR = join(GOLDEN, 'processor')
const MODEL_TIMEOUT_MS = 3_600_000
/** Tokens per run while the time of one is measured. */
const CHUNK = 16
/** Of the 8-bit weights: as `npm run model:quantise` makes them if nothing is said. */
const BLOCK_SIZE = 32
/** A longer run is not worth three. */
const LONG_MS = 30_000

interface Plan {
  /** Pixels of the square pictures. */
  sides: readonly number[]
  /** Tokens of the prompt; also what stands in the cache when the time of a token is taken. */
  prompt: number
}

const PLANS: Record<string, Plan> = {
  tiny: { sides: [256, 512, 1024], prompt: 64 },
  half: { sides: [256, 512], prompt: 128 },
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

/** What is measured side by side. */
interface Variant {
  name: string
  options: StageOptions
  /** The writer's matrices in 8 bits. */
  isInt8?: boolean
}

interface Row {
  stage: string
  floorMs: number | null
  /** By variant. */
  results: Record<string, Result>
}

interface Result {
  ms: number
  raw: number[]
  /** Of a process of its own, in MB: after the stage, and the most until then. */
  residentMb: number
  peakMb: number
}

interface Measured {
  model: string
  plan: Plan
  parameters: Record<string, number>
  rates: Rates
  rows: Row[]
}

const { values } = parseArgs({
  options: {
    provider: { type: 'string', default: 'cpu' },
    backend: { type: 'string', default: 'both' },
    rounds: { type: 'string', default: '3' },
    parts: { type: 'string', default: 'writer,painter' },
    sides: { type: 'string' },
    batches: { type: 'string', default: '1,4,16' },
    quick: { type: 'boolean', default: false },
    threads: { type: 'string' },
    models: { type: 'string' },
    out: { type: 'string' },
    model: { type: 'string' },
    dir: { type: 'string' },
  },
})
const provider: Provider = values.provider === 'cuda' ? 'cuda' : 'cpu'
const rounds = Number(values.rounds)
const backends = BACKENDS.filter((name) => values.backend === 'both' || name === values.backend)
const OPTIONS = {
  compute: provider === 'cuda' ? 'bfloat16' : 'float32',
  provider,
  ...(values.threads === undefined ? {} : { threads: Number(values.threads) }),
} as const
const BYTES_PER_WEIGHT = provider === 'cuda' ? 2 : 4
const PAINTERS: readonly Variant[] = backends.map((backend) => ({
  name: backend,
  options: { ...OPTIONS, backend },
}))
const WRITERS = PAINTERS.flatMap((variant): Variant[] => [
  variant,
  { ...variant, name: `${variant.name} int8`, isInt8: true },
])

if (values.model !== undefined && values.dir !== undefined) {
  console.log(JSON.stringify(await measureModel(values.model, values.dir)))
} else {
  await runAll()
}

async function runAll(): Promise<void> {
  for (const backend of backends) await requireProvider({ provider, backend })
  const models = (values.models ?? (provider === 'cuda' ? 'full' : 'tiny,half')).split(',')
  const loadBefore = loadavg()[0] ?? 0
  const results: Measured[] = []
  for (const model of models) {
    const dir = await prepare(model)
    try {
      const measured = await runModel(model, dir, { backend: values.backend, rounds })
      for (const backend of values.quick ? [] : backends) {
        addMemory(measured, await runModel(model, dir, { backend, rounds: 0 }))
      }
      results.push(measured)
      printTable(measured)
    } finally {
      await rm(dir, { recursive: true, force: true })
    }
  }
  const report = {
    ...describeMachine(),
    loadBefore: Math.round(loadBefore * 100) / 100,
    onnxruntime: await runtimeVersion('node'),
    provider,
    card: provider === 'cuda' ? readCard() : null,
    threads: OPTIONS.threads ?? null,
    rounds,
    results,
  }
  if (values.out === undefined) return
  await writeFile(resolve(CALLER_FOLDER, values.out), `${JSON.stringify(report, null, 2)}\n`)
}

function addMemory(measured: Measured, alone: Measured): void {
  for (const [place, row] of measured.rows.entries()) {
    for (const [name, { residentMb, peakMb }] of Object.entries(alone.rows[place]?.results ?? {})) {
      Object.assign(row.results[name] ?? {}, { residentMb, peakMb })
    }
  }
}

async function prepare(model: string): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), `engine-${model}-`))
  if (model === 'tiny') await cp(GOLDEN, dir, { recursive: true })
  else {
    const sizes = model === 'half' ? HALF_BILLION : PUBLISHED_SIZES
    await writeRealCheckpoint(dir, PROCESSOR, { sizes, isRandom: true })
  }
  if (!values.parts.includes('writer')) return dir
  const startedAt = performance.now()
  await quantiseWeights(await openCheckpoint(dir), { blockSize: BLOCK_SIZE })
  console.log(`${model}: 8-bit weights written in ${round(performance.now() - startedAt)} ms`)
  return dir
}

async function runModel(
  model: string,
  dir: string,
  turn: { backend: string; rounds: number },
): Promise<Measured> {
  const flags = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']
  const own = ['--provider', provider, '--model', model, '--dir', dir]
  const how = ['--backend', turn.backend, '--rounds', String(turn.rounds)]
  const threads = values.threads === undefined ? [] : ['--threads', values.threads]
  const sides = values.sides === undefined ? [] : ['--sides', values.sides]
  const parts = ['--parts', values.parts, '--batches', values.batches]
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [...flags, import.meta.filename, ...own, ...how, ...threads, ...sides, ...parts],
    { timeout: MODEL_TIMEOUT_MS },
  )
  return JSON.parse(stdout)
}

async function measureModel(model: string, dir: string): Promise<Measured> {
  const known = PLANS[model]
  if (!known) throw new Error(`no model ${model}`)
  const sides = values.sides?.split(',').map(Number)
  const plan = { ...known, ...(sides && { sides }) }
  // Without rounds only memory counts.
  const rate = async () => (provider === 'cuda' ? rateCard() : rateProcessor())
  const first = rounds === 0 ? { bytes: 1, operations: 1 } : await rate()
  const rows: (Omit<Row, 'floorMs'> & { work: Work | null })[] = []
  const note: Note = async (stage, durations, work) => {
    const [residentMb, peakMb] = await readMemory()
    const results = Object.entries(durations).map(([name, raw]): [string, Result] => {
      const sorted = raw.toSorted((a, b) => a - b)
      const ms = round(sorted[Math.floor(sorted.length / 2)] ?? 0)
      return [name, { ms, raw: sorted.map(round), residentMb, peakMb }]
    })
    rows.push({ stage, results: Object.fromEntries(results), work })
  }
  const checkpoint = await openCheckpoint(dir)
  if (values.parts.includes('writer')) await measureWriter(checkpoint, plan, note)
  if (values.parts.includes('painter')) await measurePainter(checkpoint, plan, note)
  // The machine may have been busy with other work at one of the two times.
  const last = rounds === 0 || provider === 'cuda' ? first : await rate()
  const rates = {
    bytes: Math.max(first.bytes, last.bytes),
    operations: Math.max(first.operations, last.operations),
  }
  const parameters: Record<string, number> = {}
  for (const folder of TENSOR_FOLDERS) {
    parameters[folder] = await countWeights(checkpoint, folder, /./)
  }
  const withFloors = rows.map(({ work, ...row }) => ({
    ...row,
    floorMs: work && round(floorOf(work, rates)),
  }))
  return { model, plan, parameters, rates, rows: withFloors }
}

type Durations = Record<string, number[]>

type Note = (stage: string, durations: Durations, work: Work | null) => Promise<void>

/** Opens something in every variant, one after another, and how long each took. */
async function openAll<Opened>(
  variants: readonly Variant[],
  open: (options: StageOptions, isInt8: boolean) => Promise<Opened>,
): Promise<{ opened: { name: string; own: Opened }[]; durations: Durations }> {
  const opened = []
  const durations: Durations = {}
  for (const { name, options, isInt8 = false } of variants) {
    const startedAt = performance.now()
    opened.push({ name, own: await open(options, isInt8) })
    durations[name] = [performance.now() - startedAt]
  }
  return { opened, durations }
}

async function measureWriter(checkpoint: Checkpoint, plan: Plan, note: Note): Promise<void> {
  const { autoregressive: config, generation } = checkpoint
  const tensors = await checkpoint.tensors('vision_language_encoder')
  const quantised = await openQuantised(checkpoint)
  const { opened, durations } = await openAll(WRITERS, (options, isInt8) =>
    openDecoder(
      {
        ...(isInt8 && { quantised }),
        config,
        tensors,
        compute: OPTIONS.compute,
        choice: 'nucleus',
        sampling: { ...generation, codebookSize: config.codebookSize },
        withLogits: false,
      },
      options,
    ),
  )
  await note('load writer', durations, null)
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
  const reading = await repeat(opened, ({ own }) => own.createBatch(1).read(newRow(1), 1, []))
  // Only the last token of a prompt goes through the head.
  const head = await countWeights(checkpoint, 'vision_language_encoder', /^lm_head/)
  const operations = 2 * (weights - head) * plan.prompt + 2 * head
  const read = { bytes: weights * BYTES_PER_WEIGHT, operations }
  await note(`read a prompt of ${plan.prompt} tokens`, reading, read)
  for (const size of values.batches.split(',').map(Number)) {
    const batches = []
    for (const { name, own } of opened) {
      const batch = own.createBatch(size)
      const rows = Array.from({ length: size }, (_, index) => newRow(index + 1))
      for (const row of rows) await batch.read(row, 1, rows)
      batches.push({ name, batch, rows })
    }
    const chunks = await repeat(batches, ({ batch, rows }) => batch.write(rows, CHUNK))
    const bytes = weights * BYTES_PER_WEIGHT + size * cacheOf(plan.prompt)
    const perToken = mapDurations(chunks, (durationMs) => durationMs / CHUNK)
    await note(`token, batch ${size}`, perToken, { bytes, operations: 2 * weights * size })
  }
  for (const { own } of opened) await own.close()
}

async function measurePainter(checkpoint: Checkpoint, plan: Plan, note: Note): Promise<void> {
  const { transformer: config, vae, patchPixels } = checkpoint
  const { opened, durations } = await openAll(PAINTERS, async (options) => ({
    glyphs: await openGlyphEncoder(checkpoint, { ...options, compute: 'float32' }),
    denoiser: await openDenoiser(checkpoint, options),
    decoder: await openPixelDecoder(checkpoint, options),
  }))
  await note('load painter', durations, null)
  const used = /^transformer_blocks\.\d+\.(attn1|ff)\./
  const weights = await countWeights(checkpoint, 'transformer', used)
  for (const side of plan.sides) {
    const tokens = (side / patchPixels) ** 2
    const priorIds = Array.from({ length: tokens }, (_, index) => index % config.codebookSize)
    const patches = createNoise(1, tokens * config.inChannels * config.patchSize ** 2)
    const painters = []
    for (const { name, own } of opened) {
      const glyph = await own.glyphs.encode("A sign 'Grand Opening'")
      const glyphNull = await own.glyphs.encode('')
      const inputs = { glyph, glyphNull, priorIds, width: side, height: side }
      painters.push({ ...own, name, conditions: await own.denoiser.prepare(inputs) })
    }
    const steps = await repeat(painters, ({ denoiser, conditions }) =>
      denoiser.evaluate(patches, 979, conditions, { guided: true }),
    )
    for (const { conditions } of painters) conditions.release()
    // Two evaluations: with and without the prompt.
    const attention = 4 * tokens ** 2 * config.innerSize * config.layerCount
    const operations = 2 * (2 * weights * tokens + attention)
    const bytes = 2 * weights * BYTES_PER_WEIGHT
    await note(`step with guidance, ${side} pixels`, steps, { bytes, operations })
    const grid = { rows: side / vae.scale, columns: side / vae.scale }
    const latents = createNoise(2, vae.latentChannels * grid.rows * grid.columns)
    const decoded = await repeat(painters, ({ decoder }) => decoder.decode(latents, grid))
    const work = await workOfDecoder(checkpoint, side)
    await note(`latents to pixels, ${side} pixels`, decoded, work)
    const planes = createNoise(3, 3 * side ** 2)
    const encoded = await repeat([{ name: 'sharp' }], () =>
      encodeImage(toPixels(planes), { width: side, height: side }, 'png'),
    )
    await note(`file (png), ${side} pixels`, encoded, null)
  }
  for (const { own } of opened) {
    await own.glyphs.close()
    await own.denoiser.close()
    await own.decoder.close()
  }
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

/** Milliseconds of each round by variant, which take turns, after one run of each that does not count. */
async function repeat<Subject extends { name: string }>(
  subjects: readonly Subject[],
  work: (subject: Subject) => Promise<unknown>,
): Promise<Durations> {
  const timeOf = async (subject: Subject) => {
    const startedAt = performance.now()
    await work(subject)
    return performance.now() - startedAt
  }
  let longest = 0
  for (const subject of subjects) longest = Math.max(longest, await timeOf(subject))
  const durations: Durations = Object.fromEntries(subjects.map(({ name }) => [name, []]))
  for (let turn = 0; turn < (longest > LONG_MS ? Math.min(rounds, 1) : rounds); turn += 1) {
    // In both directions, so that none always comes after the same one.
    for (const subject of turn % 2 === 0 ? subjects : subjects.toReversed()) {
      durations[subject.name]?.push(await timeOf(subject))
    }
  }
  return durations
}

function mapDurations(durations: Durations, change: (durationMs: number) => number): Durations {
  return Object.fromEntries(Object.entries(durations).map(([name, raw]) => [name, raw.map(change)]))
}

/** Resident now and at most, in MB. */
async function readMemory(): Promise<[number, number]> {
  const status = await readFile('/proc/self/status', 'utf8')
  const read = (field: string) => {
    const kilobytes = Number(new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(status)?.[1])
    return Math.round((kilobytes * 1024) / 1e6)
  }
  return [read('VmRSS'), read('VmHWM')]
}

function round(value: number): number {
  return Number(value.toPrecision(4))
}

function printTable({ model, rates, rows }: Measured): void {
  const giga = (value: number) => (value / 1e9).toFixed(1)
  console.log(
    `\n${model}: memory ${giga(rates.bytes)} GB/s, arithmetic ${giga(rates.operations)} GFLOP/s`,
  )
  const cells = ['variant', 'ms', 'floor', 'times', 'resident MB', 'peak MB']
  console.log('stage'.padEnd(32) + cells.map((cell) => cell.padStart(12)).join(''))
  for (const { stage, floorMs, results } of rows) {
    for (const [name, { ms, residentMb, peakMb }] of Object.entries(results)) {
      const times = floorMs === null ? '' : (ms / floorMs).toFixed(1)
      const line = [name, ms, floorMs ?? '', times, residentMb, peakMb]
      console.log(stage.padEnd(32) + line.map((cell) => String(cell).padStart(12)).join(''))
    }
  }
}
