/**
 * Graph building and session opening at the dimensions of the published checkpoint.
 *
 * Usage: node --experimental-strip-types test/bench/real-size.ts [--rounds N] [--out FILE]
 *
 * Writes bfloat16 shards of the decoder (17.8 GB) and the denoiser (13.9 GB) with every byte zero into a temporary
 * folder: sparse files, which take no room on the disk. Each variant runs in a fresh process. Weights stay in the
 * type of the file, so opening a session reads none of them; nothing is run. Times are medians with raw values.
 *
 * This is not how the engine opens a session on a CPU: there every weight is widened to float32 when it opens, a
 * private copy of twice the size of the shards, which is beyond the memory of most machines at these dimensions.
 */
import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { autoregressiveSchema, transformerSchema } from '../../gpu-worker/model/config.ts'
import type { AutoregressiveConfig, TransformerConfig } from '../../gpu-worker/model/config.ts'
import { buildDecoder } from '../../gpu-worker/model/decoder.ts'
import { openTensors } from '../../gpu-worker/model/safetensors.ts'
import type { TensorIndex } from '../../gpu-worker/model/safetensors.ts'
import { buildConditions, buildModulation } from '../../gpu-worker/model/transformer-conditions.ts'
import { buildDenoiser } from '../../gpu-worker/model/transformer.ts'
import { openSession, RUNTIME_VERSION } from '../../gpu-worker/pipeline/session.ts'
import { describeMachine } from '../support/machine.ts'

type Shapes = Record<string, readonly number[]>
type Variant = 'decoder' | 'denoiser'

const VARIANTS: readonly Variant[] = ['decoder', 'denoiser']
const SHARDS = { decoder: 4, denoiser: 3 }
const BYTES_PER_WEIGHT = 2
const VARIANT_TIMEOUT_MS = 120_000

/** One fresh process's figures. */
interface Sample {
  weights_gb: number
  graph_mb: number
  headers_ms: number
  build_ms: number
  open_ms: number
  /** Private memory of the process with all sessions of the variant open, and before. */
  private_mb: number
  private_before_mb: number
}

const { values } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    out: { type: 'string' },
    variant: { type: 'string' },
    dir: { type: 'string' },
  },
})

if (values.variant !== undefined && values.dir !== undefined) {
  console.log(JSON.stringify(await measure(values.variant as Variant, values.dir)))
} else {
  const report = await runAll(Number(values.rounds))
  const text = `${JSON.stringify(report, null, 2)}\n`
  if (values.out === undefined) process.stdout.write(text)
  else await writeFile(values.out, text)
}

async function runAll(rounds: number) {
  const root = await mkdtemp(join(tmpdir(), 'real-size-'))
  try {
    await writeShards(join(root, 'decoder'), SHARDS.decoder, decoderShapes(decoderConfig()))
    await writeShards(join(root, 'denoiser'), SHARDS.denoiser, denoiserShapes(denoiserConfig()))
    const samples: Record<Variant, Sample[]> = { decoder: [], denoiser: [] }
    for (let round = 0; round < rounds; round += 1) {
      // Alternating, so that a slow spell of the machine does not fall on one variant.
      for (const variant of round % 2 === 0 ? VARIANTS : VARIANTS.toReversed()) {
        samples[variant].push(await runVariant(variant, join(root, variant)))
      }
    }
    return {
      ...describeMachine(),
      onnxruntime: RUNTIME_VERSION,
      rounds,
      results: VARIANTS.map((variant) => ({ variant, ...summarize(samples[variant]) })),
    }
  } finally {
    await rm(root, { recursive: true, force: true })
  }
}

async function runVariant(variant: Variant, dir: string): Promise<Sample> {
  const flags = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']
  const { stdout } = await promisify(execFile)(
    process.execPath,
    [...flags, import.meta.filename, '--variant', variant, '--dir', dir],
    { timeout: VARIANT_TIMEOUT_MS },
  )
  return JSON.parse(stdout)
}

async function measure(variant: Variant, dir: string): Promise<Sample> {
  const before = await readPrivateMb()
  const start = performance.now()
  const tensors = await openTensors(dir)
  const opened = performance.now()
  const graphs = variant === 'decoder' ? buildDecoderGraphs(tensors) : buildDenoiserGraphs(tensors)
  const built = performance.now()
  const sessions = []
  for (const graph of graphs) {
    sessions.push(await openSession(graph, { threads: 1, foldWeights: false }))
  }
  const end = performance.now()
  const after = await readPrivateMb()
  for (const session of sessions) await session.close()
  const bytes = tensors.names().reduce((sum, name) => sum + tensors.get(name).length, 0)
  return {
    weights_gb: bytes / 1e9,
    graph_mb: graphs.reduce((sum, graph) => sum + graph.length, 0) / 1e6,
    headers_ms: opened - start,
    build_ms: built - opened,
    open_ms: end - built,
    private_mb: after,
    private_before_mb: before,
  }
}

function buildDecoderGraphs(tensors: TensorIndex): Uint8Array[] {
  const config = decoderConfig()
  const { codebookSize } = config
  const sampling = { temperature: 0.9, topP: 0.75, topK: 16_512, codebookSize }
  const choice = 'nucleus'
  return [
    buildDecoder({
      config,
      tensors,
      compute: 'float32',
      choice,
      sampling,
      withLogits: false,
    }),
  ]
}

function buildDenoiserGraphs(tensors: TensorIndex): Uint8Array[] {
  const model = { config: denoiserConfig(), tensors, compute: 'float32' } as const
  return [buildConditions(model), buildModulation(model), buildDenoiser(model)]
}

/** Every absent key has the value of the published checkpoint. */
function decoderConfig(): AutoregressiveConfig {
  return autoregressiveSchema.parse({ text_config: {} })
}

function denoiserConfig(): TransformerConfig {
  return transformerSchema.parse({})
}

/** A sharded folder with an index, as published; the data is a hole in the file. */
async function writeShards(dir: string, shardCount: number, shapes: Shapes): Promise<void> {
  await mkdir(dir)
  const names = Object.keys(shapes)
  const perShard = Math.ceil(names.length / shardCount)
  const weightMap: Record<string, string> = {}
  for (let shard = 0; shard < shardCount; shard += 1) {
    const number = (value: number) => String(value).padStart(5, '0')
    const file = `model-${number(shard + 1)}-of-${number(shardCount)}.safetensors`
    const entries: Record<string, unknown> = {}
    let offset = 0
    for (const name of names.slice(shard * perShard, (shard + 1) * perShard)) {
      const shape = shapes[name] ?? []
      const end = offset + shape.reduce((product, size) => product * size, BYTES_PER_WEIGHT)
      entries[name] = { dtype: 'BF16', shape, data_offsets: [offset, end] }
      offset = end
      weightMap[name] = file
    }
    const header = Buffer.from(JSON.stringify(entries))
    const prefix = Buffer.alloc(8)
    prefix.writeBigUInt64LE(BigInt(header.length))
    const handle = await open(join(dir, file), 'w')
    await handle.write(Buffer.concat([prefix, header]))
    await handle.truncate(prefix.length + header.length + offset)
    await handle.close()
  }
  const index = JSON.stringify({ metadata: {}, weight_map: weightMap })
  await writeFile(join(dir, 'model.safetensors.index.json'), index)
}

function layer(name: string, outSize: number, inSize: number): Shapes {
  return { [`${name}.weight`]: [outSize, inSize], [`${name}.bias`]: [outSize] }
}

function decoderShapes(config: AutoregressiveConfig): Shapes {
  const { hiddenSize: size, intermediateSize, headDim, headCount, keyValueHeadCount } = config
  const prefix = 'model.language_model'
  const shapes: Shapes = { [`${prefix}.embed_tokens.weight`]: [config.vocabularySize, size] }
  for (let index = 0; index < config.layerCount; index += 1) {
    const name = `${prefix}.layers.${index}`
    Object.assign(shapes, {
      [`${name}.input_layernorm.weight`]: [size],
      ...layer(`${name}.self_attn.q_proj`, headCount * headDim, size),
      ...layer(`${name}.self_attn.k_proj`, keyValueHeadCount * headDim, size),
      ...layer(`${name}.self_attn.v_proj`, keyValueHeadCount * headDim, size),
      [`${name}.self_attn.o_proj.weight`]: [size, headCount * headDim],
      [`${name}.post_self_attn_layernorm.weight`]: [size],
      [`${name}.post_attention_layernorm.weight`]: [size],
      [`${name}.mlp.gate_up_proj.weight`]: [2 * intermediateSize, size],
      [`${name}.mlp.down_proj.weight`]: [size, intermediateSize],
      [`${name}.post_mlp_layernorm.weight`]: [size],
    })
  }
  return {
    ...shapes,
    [`${prefix}.norm.weight`]: [size],
    'lm_head.weight': [config.visionVocabularySize, size],
  }
}

function denoiserShapes(config: TransformerConfig): Shapes {
  const { innerSize: size, timeSize } = config
  const area = config.patchSize ** 2
  const time = 'time_condition_embed'
  const shapes: Shapes = {
    ...layer('image_projector.proj', size, config.inChannels * area),
    ...layer('glyph_projector.net.0.proj', size, config.textSize),
    ...layer('glyph_projector.net.2', size, size),
    'prior_token_embedding.weight': [config.codebookSize, size],
    ...layer('prior_projector.net.0.proj', size, size),
    ...layer('prior_projector.net.2', size, size),
    ...layer(`${time}.timestep_embedder.linear_1`, timeSize, timeSize),
    ...layer(`${time}.timestep_embedder.linear_2`, timeSize, timeSize),
    ...layer(`${time}.condition_embedder.linear_1`, timeSize, 4 * config.conditionSize),
    ...layer(`${time}.condition_embedder.linear_2`, timeSize, timeSize),
  }
  for (let index = 0; index < config.layerCount; index += 1) {
    const name = `transformer_blocks.${index}`
    Object.assign(shapes, layer(`${name}.norm1.linear`, 12 * size, timeSize))
    for (const part of ['to_q', 'to_k', 'to_v', 'to_out.0']) {
      Object.assign(shapes, layer(`${name}.attn1.${part}`, size, size))
    }
    Object.assign(shapes, layer(`${name}.ff.net.0.proj`, 4 * size, size))
    Object.assign(shapes, layer(`${name}.ff.net.2`, size, 4 * size))
  }
  return {
    ...shapes,
    ...layer('norm_out.linear', 2 * size, timeSize),
    ...layer('proj_out', config.outChannels * area, size),
  }
}

/** Anonymous memory of this process: what is neither file-backed nor shared. */
async function readPrivateMb(): Promise<number> {
  const status = await readFile('/proc/self/status', 'utf8')
  const kibibytes = Number(/^RssAnon:\s+(\d+) kB$/m.exec(status)?.[1])
  return (kibibytes * 1024) / 1e6
}

function summarize(samples: readonly Sample[]) {
  const keys = Object.keys(samples[0] ?? {}) as (keyof Sample)[]
  const sorted = (key: keyof Sample) =>
    samples.map((sample) => sample[key]).toSorted((a, b) => a - b)
  const round = (value: number) => Number(value.toPrecision(4))
  return Object.fromEntries(
    keys.map((key) => {
      const raw = sorted(key).map(round)
      return [key, { median: raw[Math.floor(raw.length / 2)], raw }]
    }),
  )
}
