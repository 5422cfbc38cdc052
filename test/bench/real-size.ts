/**
 * Opening the model at the dimensions of the published checkpoint, through the functions that the product opens it by.
 *
 * Usage: npm run bench:model -- [--rounds N] [--out FILE]
 *
 * Writes a folder with the published configuration and all published tensors, every number zero: 36 GB of sparse files,
 * which take no room on the disk. Each row is measured in fresh processes; nothing is run. Times are medians with raw
 * values.
 *
 * Rows named `mapped` leave the weights in the type of the file, so that opening reads none of them: it is what can be
 * opened of the large graphs on most machines. Rows named `product` open as the product does on a processor, where half
 * precision is widened into private copies; all of it would need 61.5 GB (`needs_gb` of the row `checkpoint`).
 */
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs, promisify } from 'node:util'

import { CALLER_FOLDER } from '../../gpu-worker/cli/env.ts'
import { openCheckpoint, TENSOR_FOLDERS } from '../../gpu-worker/model/checkpoint.ts'
import type { Checkpoint } from '../../gpu-worker/model/checkpoint.ts'
import { widenedBytes } from '../../gpu-worker/model/memory.ts'
import { openPixelDecoder } from '../../gpu-worker/pipeline/decode.ts'
import { openDenoiser } from '../../gpu-worker/pipeline/denoise.ts'
import { openGlyphEncoder } from '../../gpu-worker/pipeline/glyph-encoder.ts'
import type { StageOptions } from '../../gpu-worker/pipeline/glyph-encoder.ts'
import { runtimeVersion } from '../../gpu-worker/pipeline/session.ts'
import { openLatentEncoder, openVisionTower } from '../../gpu-worker/pipeline/source-encoder.ts'
import { openVisualTokenWriter } from '../../gpu-worker/pipeline/visual-tokens.ts'
import { describeMachine } from '../support/machine.ts'
import { writeRealCheckpoint } from '../support/real-checkpoint.ts'

const PROCESSOR = fileURLToPath(new URL('../../gpu-worker/checkpoint/processor', import.meta.url))
const ROW_TIMEOUT_MS = 300_000

type Stage = (checkpoint: Checkpoint, options: StageOptions) => Promise<{ close(): Promise<void> }>

const MAPPED: StageOptions = { compute: 'float32', threads: 1, foldWeights: false }
const PRODUCT: StageOptions = { compute: 'float32', threads: 1 }

/** Eight graphs: the denoiser has three, and what reads images two. */
const ROWS: Record<string, { open: Stage; options: StageOptions }> = {
  'tokens, mapped': { open: openVisualTokenWriter, options: MAPPED },
  'quoted text, mapped': { open: openGlyphEncoder, options: MAPPED },
  'denoiser, mapped': { open: openDenoiser, options: MAPPED },
  'pixels, mapped': { open: openPixelDecoder, options: MAPPED },
  'images for the layout, mapped': { open: openVisionTower, options: MAPPED },
  'images for the denoiser, mapped': { open: openLatentEncoder, options: MAPPED },
  'quoted text, product': { open: openGlyphEncoder, options: PRODUCT },
  'pixels, product': { open: openPixelDecoder, options: PRODUCT },
}
const CHECKPOINT_ROW = 'checkpoint'

/** One fresh process's figures. */
type Sample = Record<string, number>

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    out: { type: 'string' },
    row: { type: 'string' },
    dir: { type: 'string' },
  },
})

if (values.row !== undefined && values.dir !== undefined) {
  const sample =
    values.row === CHECKPOINT_ROW
      ? await measureCheckpoint(values.dir)
      : await measureStage(values.row, values.dir)
  console.log(JSON.stringify(sample))
} else {
  const report = await runAll(Number(values.rounds))
  const text = `${JSON.stringify(report, null, 2)}\n`
  if (values.out === undefined) process.stdout.write(text)
  else await writeFile(resolve(CALLER_FOLDER, values.out), text)
}

async function runAll(rounds: number) {
  const dir = await mkdtemp(join(tmpdir(), 'real-size-'))
  try {
    await writeRealCheckpoint(dir, PROCESSOR)
    const rows = [CHECKPOINT_ROW, ...Object.keys(ROWS)]
    const samples = new Map(rows.map((row): [string, Sample[]] => [row, []]))
    for (let round = 0; round < rounds; round += 1) {
      // Alternating, so that a slow spell of the machine does not fall on one row.
      for (const row of round % 2 === 0 ? rows : rows.toReversed()) {
        samples.get(row)?.push(await runRow(row, dir))
      }
    }
    return {
      ...describeMachine(),
      onnxruntime: await runtimeVersion('node'),
      rounds,
      results: rows.map((row) => ({ row, ...summarize(samples.get(row) ?? []) })),
    }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

async function runRow(row: string, dir: string): Promise<Sample> {
  const flags = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [...flags, import.meta.filename, '--row', row, '--dir', dir],
    { timeout: ROW_TIMEOUT_MS },
  )
  return JSON.parse(stdout)
}

/** What comes before any graph: configuration, all headers, and what names the weights. */
async function measureCheckpoint(dir: string): Promise<Sample> {
  const start = performance.now()
  const checkpoint = await openCheckpoint(dir)
  const configured = performance.now()
  let bytes = 0
  for (const folder of TENSOR_FOLDERS) {
    const tensors = await checkpoint.tensors(folder)
    bytes += tensors.names().reduce((sum, name) => sum + tensors.get(name).length, 0)
  }
  const opened = performance.now()
  await checkpoint.hash()
  const hashed = performance.now()
  return {
    weights_gb: bytes / 1e9,
    needs_gb: (await widenedBytes(checkpoint)) / 1e9,
    config_ms: configured - start,
    headers_ms: opened - configured,
    hash_ms: hashed - opened,
  }
}

async function measureStage(name: string, dir: string): Promise<Sample> {
  const row = ROWS[name]
  if (!row) throw new Error(`no row ${name}`)
  const before = await readPrivateMb()
  const checkpoint = await openCheckpoint(dir)
  const start = performance.now()
  const stage = await row.open(checkpoint, row.options)
  const end = performance.now()
  const after = await readPrivateMb()
  await stage.close()
  return {
    /** Headers of the folder, building of the graphs and opening of their sessions. */
    open_ms: end - start,
    /** Private memory of the process with the stage open, and before. */
    private_mb: after,
    private_before_mb: before,
  }
}

/** Anonymous memory of this process: what is neither file-backed nor shared. */
async function readPrivateMb(): Promise<number> {
  const status = await readFile('/proc/self/status', 'utf8')
  const kibibytes = Number(/^RssAnon:\s+(\d+) kB$/m.exec(status)?.[1])
  return (kibibytes * 1024) / 1e6
}

function summarize(samples: readonly Sample[]) {
  const keys = Object.keys(samples[0] ?? {})
  const sorted = (key: string) =>
    samples.map((sample) => sample[key] ?? NaN).toSorted((a, b) => a - b)
  const round = (value: number) => Number(value.toPrecision(4))
  return Object.fromEntries(
    keys.map((key) => {
      const raw = sorted(key).map(round)
      return [key, { median: raw[Math.floor(raw.length / 2)], raw }]
    }),
  )
}
