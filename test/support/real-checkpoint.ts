import { mkdir, open, readFile, writeFile } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { dirname, join } from 'node:path'

import { PUBLISHED_CONFIGS } from './published.ts'

type Shapes = Readonly<Record<string, readonly number[]>>

export interface CheckpointSizes {
  writer: {
    size: number
    wide: number
    layers: number
    keys: number
    vocabulary: number
    codes: number
  }
  /** Null leaves out what reads condition images. */
  vision: {
    size: number
    wide: number
    layers: number
    patch: number
    positions: number
    codes: number
  } | null
  denoiser: {
    size: number
    layers: number
    time: number
    condition: number
    text: number
    patch: number
  }
  texts: {
    size: number
    inner: number
    wide: number
    layers: number
    bytes: number
    buckets: number
    heads: number
  }
  pictures: { channels: readonly number[]; layers: number; latents: number }
}

/** Sizes of the published checkpoint; they follow from its configuration. */
export const PUBLISHED_SIZES: CheckpointSizes = {
  writer: {
    size: 4096,
    wide: 13_696,
    layers: 40,
    keys: 256,
    vocabulary: 168_064,
    codes: 16_512,
  },
  vision: { size: 1536, wide: 6144, layers: 40, patch: 16, positions: 16_384, codes: 2048 },
  denoiser: { size: 4096, layers: 30, time: 512, condition: 1024, text: 1472, patch: 64 },
  texts: { size: 1472, inner: 384, wide: 3584, layers: 12, bytes: 384, buckets: 32, heads: 6 },
  pictures: { channels: [128, 512, 1024, 1024], layers: 3, latents: 16 },
}

/** Half a billion parameters in the published proportions, for text alone. */
export const HALF_BILLION: CheckpointSizes = {
  ...PUBLISHED_SIZES,
  writer: {
    size: 1024,
    wide: 3584,
    layers: 16,
    keys: 256,
    vocabulary: 20_480,
    codes: 16_512,
  },
  vision: null,
  denoiser: { size: 1024, layers: 12, time: 512, condition: 1024, text: 1472, patch: 64 },
  texts: { size: 1472, inner: 384, wide: 3584, layers: 2, bytes: 384, buckets: 32, heads: 6 },
  pictures: { channels: [32, 64, 128, 128], layers: 2, latents: 16 },
}

const CODEBOOK = 16_384

/**
 * Writes a checkpoint with the configuration, the tensors and the element types of `zai-org/GLM-Image`, or one with
 * fewer and smaller layers. Where it is not random every number is zero: its 36 GB are holes in files then, and take no
 * room on the disk.
 *
 * @param processor a folder with the files of another tokenizer; the published one is not at hand
 */
export async function writeRealCheckpoint(
  dir: string,
  processor: string,
  {
    sizes = PUBLISHED_SIZES,
    isRandom = false,
  }: { sizes?: CheckpointSizes; isRandom?: boolean } = {},
): Promise<void> {
  for (const [file, config] of Object.entries(configsOf(sizes))) {
    await mkdir(dirname(join(dir, file)), { recursive: true })
    await writeFile(join(dir, file), JSON.stringify(config))
  }
  const shards = (folder: string, shapes: Shapes, count: number, dtype: 'BF16' | 'F32' = 'BF16') =>
    writeShards(join(dir, folder), shapes, { shards: count, dtype, isRandom })
  await shards('vision_language_encoder', writerShapes(sizes), 4)
  await shards('transformer', denoiserShapes(sizes), 3)
  await shards('vae', pictureShapes(sizes), 1)
  await shards('text_encoder', textShapes(sizes), 1, 'F32')
  await writeProcessor(join(dir, 'processor'), processor)
}

/** The published configuration with other sizes in it. */
function configsOf({ writer, denoiser, texts, pictures }: CheckpointSizes) {
  const changed: Record<string, Record<string, unknown>> = structuredClone(PUBLISHED_CONFIGS)
  const change = (file: string, values: Record<string, unknown>) => {
    changed[file] = { ...changed[file], ...values }
  }
  const config = changed['vision_language_encoder/config.json'] ?? {}
  const text = {
    ...(config['text_config'] as object),
    hidden_size: writer.size,
    num_hidden_layers: writer.layers,
    num_attention_heads: writer.size / 128,
    intermediate_size: writer.wide,
    vocab_size: writer.vocabulary,
    vision_vocab_size: writer.codes,
  }
  change('vision_language_encoder/config.json', { text_config: text })
  change('transformer/config.json', {
    num_attention_heads: denoiser.size / 128,
    num_layers: denoiser.layers,
  })
  change('text_encoder/config.json', { num_layers: texts.layers })
  change('vae/config.json', {
    block_out_channels: pictures.channels,
    layers_per_block: pictures.layers,
  })
  return changed
}

/** The other tokenizer with the published start token added. */
async function writeProcessor(dir: string, source: string): Promise<void> {
  await mkdir(dir)
  const read = async (name: string) => JSON.parse(await readFile(join(source, name), 'utf8'))
  const tokenizer = await read('tokenizer.json')
  const start = { ...tokenizer.added_tokens[0], id: CODEBOOK, content: '<|dit_token_16384|>' }
  tokenizer.added_tokens.push(start)
  await writeFile(join(dir, 'tokenizer.json'), JSON.stringify(tokenizer))
  const config = { ...(await read('tokenizer_config.json')), bos_token: start.content }
  await writeFile(join(dir, 'tokenizer_config.json'), JSON.stringify(config))
  const template = await readFile(join(source, 'chat_template.jinja'))
  await writeFile(join(dir, 'chat_template.jinja'), template)
}

async function writeShards(
  dir: string,
  shapes: Shapes,
  { shards, dtype, isRandom }: { shards: number; dtype: 'BF16' | 'F32'; isRandom: boolean },
): Promise<void> {
  const names = Object.keys(shapes)
  const perShard = Math.ceil(names.length / shards)
  const weightMap: Record<string, string> = {}
  for (let shard = 0; shard < shards; shard += 1) {
    const number = (value: number) => String(value).padStart(5, '0')
    const file = `model-${number(shard + 1)}-of-${number(shards)}.safetensors`
    const entries: Record<string, unknown> = {}
    let offset = 0
    for (const name of names.slice(shard * perShard, (shard + 1) * perShard)) {
      const shape = shapes[name] ?? []
      const end = offset + shape.reduce((bytes, side) => bytes * side, dtype === 'F32' ? 4 : 2)
      entries[name] = { dtype, shape, data_offsets: [offset, end] }
      offset = end
      weightMap[name] = file
    }
    const header = Buffer.from(JSON.stringify(entries))
    const prefix = Buffer.alloc(8)
    prefix.writeBigUInt64LE(BigInt(header.length))
    const handle = await open(join(dir, file), 'w')
    await handle.write(Buffer.concat([prefix, header]))
    if (isRandom) await fillRandom(handle, offset, dtype)
    else await handle.truncate(prefix.length + header.length + offset)
    await handle.close()
  }
  const index = JSON.stringify({ metadata: {}, weight_map: weightMap })
  await writeFile(join(dir, 'model.safetensors.index.json'), index)
}

/** Numbers about zero, small enough for any depth. They come again and again: no speed depends on them. */
async function fillRandom(
  handle: FileHandle,
  sizeBytes: number,
  dtype: 'BF16' | 'F32',
): Promise<void> {
  const numbers = Float32Array.from({ length: 2 ** 21 }, (_, index) => 0.03 * Math.sin(index ** 2))
  const block =
    dtype === 'F32'
      ? new Uint8Array(numbers.buffer)
      : new Uint8Array(
          Uint16Array.from(new Uint32Array(numbers.buffer), (bits) => bits >>> 16).buffer,
        )
  for (let written = 0; written < sizeBytes; written += block.length) {
    await handle.write(block.subarray(0, sizeBytes - written))
  }
}

const layer = (name: string, outSize: number, inSize: number): Shapes => ({
  [`${name}.weight`]: [outSize, inSize],
  [`${name}.bias`]: [outSize],
})
const norm = (name: string, size: number): Shapes => ({
  [`${name}.weight`]: [size],
  [`${name}.bias`]: [size],
})
const convolution = (name: string, to: number, from: number, side: number): Shapes => ({
  [`${name}.weight`]: [to, from, side, side],
  [`${name}.bias`]: [to],
})
const each = (count: number, shapesOf: (index: number) => Shapes): Shapes =>
  Object.assign({}, ...Array.from({ length: count }, (_, index) => shapesOf(index)))

function writerShapes({ writer, vision }: CheckpointSizes): Shapes {
  const { size, wide, keys } = writer
  const prefix = 'model.language_model'
  return {
    [`${prefix}.embed_tokens.weight`]: [writer.vocabulary, size],
    ...each(writer.layers, (index) => {
      const name = `${prefix}.layers.${index}`
      return {
        [`${name}.input_layernorm.weight`]: [size],
        ...layer(`${name}.self_attn.q_proj`, size, size),
        ...layer(`${name}.self_attn.k_proj`, keys, size),
        ...layer(`${name}.self_attn.v_proj`, keys, size),
        [`${name}.self_attn.o_proj.weight`]: [size, size],
        [`${name}.post_self_attn_layernorm.weight`]: [size],
        [`${name}.post_attention_layernorm.weight`]: [size],
        [`${name}.mlp.gate_up_proj.weight`]: [2 * wide, size],
        [`${name}.mlp.down_proj.weight`]: [size, wide],
        [`${name}.post_mlp_layernorm.weight`]: [size],
      }
    }),
    [`${prefix}.norm.weight`]: [size],
    'lm_head.weight': [writer.codes, size],
    ...(vision === null ? {} : visionShapes(vision)),
  }
}

/** Only editing reads these. */
function visionShapes(vision: NonNullable<CheckpointSizes['vision']>): Shapes {
  const { size, wide } = vision
  return {
    ...convolution('model.visual.patch_embed.proj', size, 3, vision.patch),
    'model.visual.embeddings.position_embedding.weight': [vision.positions, size],
    ...each(vision.layers, (index) => {
      const name = `model.visual.blocks.${index}`
      return {
        ...norm(`${name}.norm1`, size),
        ...layer(`${name}.attn.qkv`, 3 * size, size),
        ...layer(`${name}.attn.proj`, size, size),
        ...norm(`${name}.norm2`, size),
        ...layer(`${name}.mlp.fc1`, wide, size),
        ...layer(`${name}.mlp.fc2`, size, wide),
      }
    }),
    ...convolution('model.vqmodel.quant_conv', vision.codes, size, 1),
    'model.vqmodel.quantize.embedding.weight': [CODEBOOK, vision.codes],
    ...convolution('model.vqmodel.post_quant_conv', size, vision.codes, 1),
  }
}

function denoiserShapes({ denoiser }: CheckpointSizes): Shapes {
  const { size, time, patch } = denoiser
  const embedding = 'time_condition_embed'
  return {
    ...layer('image_projector.proj', size, patch),
    ...layer('glyph_projector.net.0.proj', size, denoiser.text),
    ...layer('glyph_projector.net.2', size, size),
    'prior_token_embedding.weight': [CODEBOOK, size],
    ...layer('prior_projector.net.0.proj', size, size),
    ...layer('prior_projector.net.2', size, size),
    ...layer(`${embedding}.timestep_embedder.linear_1`, time, time),
    ...layer(`${embedding}.timestep_embedder.linear_2`, time, time),
    ...layer(`${embedding}.condition_embedder.linear_1`, time, denoiser.condition),
    ...layer(`${embedding}.condition_embedder.linear_2`, time, time),
    ...each(denoiser.layers, (index) => {
      const name = `transformer_blocks.${index}`
      return {
        ...layer(`${name}.norm1.linear`, 12 * size, time),
        ...layer(`${name}.attn1.to_q`, size, size),
        ...layer(`${name}.attn1.to_k`, size, size),
        ...layer(`${name}.attn1.to_v`, size, size),
        ...layer(`${name}.attn1.to_out.0`, size, size),
        ...layer(`${name}.ff.net.0.proj`, 4 * size, size),
        ...layer(`${name}.ff.net.2`, size, 4 * size),
      }
    }),
    ...layer('norm_out.linear', 2 * size, time),
    ...layer('proj_out', patch, size),
  }
}

function textShapes({ texts }: CheckpointSizes): Shapes {
  const { size, inner, wide } = texts
  return {
    'shared.weight': [texts.bytes, size],
    ...each(texts.layers, (index) => {
      const attention = `encoder.block.${index}.layer.0`
      const feedForward = `encoder.block.${index}.layer.1`
      return {
        [`${attention}.layer_norm.weight`]: [size],
        [`${attention}.SelfAttention.q.weight`]: [inner, size],
        [`${attention}.SelfAttention.k.weight`]: [inner, size],
        [`${attention}.SelfAttention.v.weight`]: [inner, size],
        [`${attention}.SelfAttention.o.weight`]: [size, inner],
        [`${feedForward}.layer_norm.weight`]: [size],
        [`${feedForward}.DenseReluDense.wi_0.weight`]: [wide, size],
        [`${feedForward}.DenseReluDense.wi_1.weight`]: [wide, size],
        [`${feedForward}.DenseReluDense.wo.weight`]: [size, wide],
      }
    }),
    'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight': [
      texts.buckets,
      texts.heads,
    ],
    'encoder.final_layer_norm.weight': [size],
  }
}

function pictureShapes({ pictures }: CheckpointSizes): Shapes {
  const { channels, layers, latents } = pictures
  const resnet = (name: string, from: number, to: number): Shapes => ({
    ...norm(`${name}.norm1`, from),
    ...convolution(`${name}.conv1`, to, from, 3),
    ...norm(`${name}.norm2`, to),
    ...convolution(`${name}.conv2`, to, to, 3),
    ...(from === to ? {} : convolution(`${name}.conv_shortcut`, to, from, 1)),
  })
  const blocks = (name: string, widths: readonly number[], count: number, sampler: string) =>
    each(widths.length, (block) => {
      const to = widths[block] ?? 0
      const from = widths[block - 1] ?? to
      const isLast = block === widths.length - 1
      return {
        ...each(count, (index) =>
          resnet(`${name}.${block}.resnets.${index}`, index === 0 ? from : to, to),
        ),
        ...(isLast ? {} : convolution(`${name}.${block}.${sampler}.0.conv`, to, to, 3)),
      }
    })
  const deepest = channels.at(-1) ?? 0
  const first = channels[0] ?? 0
  const middle = (half: string) =>
    each(2, (index) => resnet(`${half}.mid_block.resnets.${index}`, deepest, deepest))
  return {
    ...convolution('decoder.conv_in', deepest, latents, 3),
    ...middle('decoder'),
    ...blocks('decoder.up_blocks', channels.toReversed(), layers + 1, 'upsamplers'),
    ...norm('decoder.conv_norm_out', first),
    ...convolution('decoder.conv_out', 3, first, 3),
    // Only editing reads these.
    ...convolution('encoder.conv_in', first, 3, 3),
    ...blocks('encoder.down_blocks', channels, layers, 'downsamplers'),
    ...middle('encoder'),
    ...norm('encoder.conv_norm_out', deepest),
    ...convolution('encoder.conv_out', 2 * latents, deepest, 3),
  }
}
