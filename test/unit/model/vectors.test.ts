import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { afterAll, beforeAll, expect, test } from 'vitest'

import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import type { Checkpoint } from '../../../gpu-worker/model/checkpoint.ts'
import {
  autoregressiveSchema,
  textEncoderSchema,
  transformerSchema,
  vaeSchema,
} from '../../../gpu-worker/model/config.ts'
import { buildDecoder } from '../../../gpu-worker/model/decoder.ts'
import { createRotaryTable } from '../../../gpu-worker/model/rope.ts'
import { openTensors } from '../../../gpu-worker/model/safetensors.ts'
import { buildVaeDecoder } from '../../../gpu-worker/model/vae.ts'
import { startDecoderRun } from '../../../gpu-worker/pipeline/decoder-run.ts'
import { fromPatches, openDenoiser, toPatches } from '../../../gpu-worker/pipeline/denoise.ts'
import { openGlyphEncoder } from '../../../gpu-worker/pipeline/glyph-encoder.ts'
import { planPositions } from '../../../gpu-worker/pipeline/positions.ts'
import { openSession } from '../../../gpu-worker/pipeline/session.ts'
import {
  createNumbers,
  differenceFrom,
  linearShapes,
  writeVectorWeights,
} from '../../support/vectors.ts'
import type { Shapes } from '../../support/vectors.ts'

/**
 * Records of the reference implementation in float32 on small models with other dimensions than the reference
 * folder, whose weights follow from their names: they need no stored tensors.
 */

const GOLDEN = fileURLToPath(new URL('../../fixtures/golden/checkpoint', import.meta.url))
const TOLERANCE = 1e-4
const CPU = { compute: 'float32', threads: 1 } as const

let root: string
let base: Checkpoint
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'vectors-'))
  base = await openCheckpoint(GOLDEN)
})
afterAll(() => rm(root, { recursive: true, force: true }))

async function writeModel(name: string, shapes: Shapes) {
  const dir = join(root, name)
  await mkdir(dir)
  await writeVectorWeights(dir, shapes)
  return openTensors(dir)
}

test('the denoiser with and without the prompt', async () => {
  const size = 16
  const block = (layer: number) => {
    const name = `transformer_blocks.${layer}`
    return linearShapes({
      [`${name}.norm1.linear`]: [12 * size, 8],
      [`${name}.attn1.to_q`]: [size, size],
      [`${name}.attn1.to_k`]: [size, size],
      [`${name}.attn1.to_v`]: [size, size],
      [`${name}.attn1.to_out.0`]: [size, size],
      [`${name}.ff.net.0.proj`]: [4 * size, size],
      [`${name}.ff.net.2`]: [size, 4 * size],
    })
  }
  const tensors = await writeModel('denoiser', {
    ...linearShapes({
      'image_projector.proj': [size, 16],
      'glyph_projector.net.0.proj': [size, 6],
      'glyph_projector.net.2': [size, size],
      'prior_projector.net.0.proj': [size, size],
      'prior_projector.net.2': [size, size],
      'time_condition_embed.timestep_embedder.linear_1': [8, 8],
      'time_condition_embed.timestep_embedder.linear_2': [8, 8],
      'time_condition_embed.condition_embedder.linear_1': [8, 16],
      'time_condition_embed.condition_embedder.linear_2': [8, 8],
      'norm_out.linear': [2 * size, 8],
      proj_out: [16, size],
    }),
    'prior_token_embedding.weight': [10, size],
    ...block(0),
    ...block(1),
  })
  const transformer = transformerSchema.parse({
    attention_head_dim: 8,
    num_attention_heads: 2,
    num_layers: 2,
    patch_size: 2,
    in_channels: 4,
    out_channels: 4,
    text_embed_dim: 6,
    time_embed_dim: 8,
    condition_dim: 4,
    prior_vq_quantizer_codebook_size: 10,
  })
  const checkpoint = { ...base, transformer, patchPixels: 32, tensors: async () => tensors }
  const denoiser = await openDenoiser(checkpoint, CPU)
  const glyph = createNumbers(18, 2)
  const conditions = await denoiser.prepare({
    glyph: { data: glyph, shape: [3, 6] },
    glyphNull: { data: glyph.slice(0, 6), shape: [1, 6] },
    priorIds: [0, 3, 6, 9, 2, 5, 8, 1],
    height: 64,
    width: 128,
  })
  const layout = { channels: 4, rows: 4, columns: 8, patch: 2 }
  const patches = toPatches(createNumbers(128, 1), layout)
  const { conditional, unconditional } = await denoiser.evaluate(patches, 979, conditions, true)
  await denoiser.close()
  const withPrompt = differenceFrom(fromPatches(conditional, layout), {
    first: [-0.562495, -0.816469, 0.916943, -0.376965, 1.288909, 0.439862],
    last: [-0.159048, 0.349512, -0.351504],
    sum: 11.82347,
    absoluteSum: 71.21619,
  })
  const withoutPrompt = differenceFrom(fromPatches(unconditional!, layout), {
    first: [-0.854285, -0.875951, 0.869879, -0.446113, 1.384913, 0.388214],
    last: [-0.131891, 0.352191, -0.38122],
    sum: 11.04788,
    absoluteSum: 72.6509,
  })
  expect(withPrompt).toBeLessThan(TOLERANCE)
  expect(withoutPrompt).toBeLessThan(TOLERANCE)
})

test('the picture decoder before scaling to pixels', async () => {
  const conv = (name: string, to: number, from: number, kernel = 3): Shapes => ({
    [`${name}.weight`]: [to, from, kernel, kernel],
    [`${name}.bias`]: [to],
  })
  const norm = (name: string, size: number): Shapes => ({
    [`${name}.weight`]: [size],
    [`${name}.bias`]: [size],
  })
  const resnet = (name: string, from: number, to: number): Shapes => ({
    ...norm(`${name}.norm1`, from),
    ...conv(`${name}.conv1`, to, from),
    ...norm(`${name}.norm2`, to),
    ...conv(`${name}.conv2`, to, to),
    ...(from === to ? {} : conv(`${name}.conv_shortcut`, to, from, 1)),
  })
  const tensors = await writeModel('pictures', {
    ...conv('decoder.conv_in', 16, 4),
    ...resnet('decoder.mid_block.resnets.0', 16, 16),
    ...resnet('decoder.mid_block.resnets.1', 16, 16),
    ...resnet('decoder.up_blocks.0.resnets.0', 16, 16),
    ...resnet('decoder.up_blocks.0.resnets.1', 16, 16),
    ...conv('decoder.up_blocks.0.upsamplers.0.conv', 16, 16),
    ...resnet('decoder.up_blocks.1.resnets.0', 16, 8),
    ...resnet('decoder.up_blocks.1.resnets.1', 8, 8),
    ...conv('decoder.up_blocks.1.upsamplers.0.conv', 8, 8),
    ...resnet('decoder.up_blocks.2.resnets.0', 8, 8),
    ...resnet('decoder.up_blocks.2.resnets.1', 8, 8),
    ...norm('decoder.conv_norm_out', 8),
    ...conv('decoder.conv_out', 3, 8),
  })
  const config = vaeSchema.parse({
    block_out_channels: [8, 8, 16],
    layers_per_block: 1,
    latent_channels: 4,
    norm_num_groups: 4,
    latents_mean: [0, 0, 0, 0],
    latents_std: [1, 1, 1, 1],
  })
  const session = await openSession(buildVaeDecoder(config, tensors), { threads: 1 })
  const latents = { data: createNumbers(24, 4), shape: [1, 4, 2, 3] }
  const { decoded } = await session.run({ latents })
  await session.close()
  expect(decoded?.shape).toEqual([1, 3, 8, 12])
  const difference = differenceFrom(decoded!.data as Float32Array, {
    first: [-0.255206, -0.687654, -0.997967, -0.511204, -0.009711, -0.226659],
    last: [-0.129806, -0.547269, -0.133231],
    sum: 0.99288,
    absoluteSum: 160.12553,
  })
  expect(difference).toBeLessThan(TOLERANCE)
})

test('the encoder of quoted text, for two texts and for none', async () => {
  const block = (layer: number): Shapes => {
    const name = `encoder.block.${layer}`
    return {
      [`${name}.layer.0.layer_norm.weight`]: [12],
      [`${name}.layer.0.SelfAttention.q.weight`]: [12, 12],
      [`${name}.layer.0.SelfAttention.k.weight`]: [12, 12],
      [`${name}.layer.0.SelfAttention.v.weight`]: [12, 12],
      [`${name}.layer.0.SelfAttention.o.weight`]: [12, 12],
      [`${name}.layer.1.layer_norm.weight`]: [12],
      [`${name}.layer.1.DenseReluDense.wi_0.weight`]: [20, 12],
      [`${name}.layer.1.DenseReluDense.wi_1.weight`]: [20, 12],
      [`${name}.layer.1.DenseReluDense.wo.weight`]: [12, 20],
    }
  }
  const tensors = await writeModel('texts', {
    'encoder.embed_tokens.weight': [384, 12],
    'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight': [8, 3],
    'encoder.final_layer_norm.weight': [12],
    ...block(0),
    ...block(1),
  })
  const textEncoder = textEncoderSchema.parse({
    d_model: 12,
    d_ff: 20,
    d_kv: 4,
    num_heads: 3,
    num_layers: 2,
    vocab_size: 384,
    relative_attention_num_buckets: 8,
    relative_attention_max_distance: 16,
  })
  const checkpoint = { ...base, textEncoder, tensors: async () => tensors }
  const encoder = await openGlyphEncoder(checkpoint, CPU)
  const two = await encoder.encode('"AB" and "你"')
  const none = await encoder.encode('')
  await encoder.close()
  expect(two.shape).toEqual([9, 12])
  const differenceOfTwo = differenceFrom(two.data as Float32Array, {
    first: [0.830096, 0.726615, -1.521384, 1.221115, -0.148354, 0.926902],
    last: [0.787415, 2.124706, 0.11963],
    sum: 26.93511,
    absoluteSum: 90.55302,
  })
  const differenceOfNone = differenceFrom(none.data as Float32Array, {
    first: [0.05214, 1.304175, 0.517073, 0.180263, 0.678147, 1.51315],
    last: [1.245273, 0.416581, 0.665649],
    sum: 5.4263,
    absoluteSum: 10.36984,
  })
  expect(differenceOfTwo).toBeLessThan(TOLERANCE)
  expect(differenceOfNone).toBeLessThan(TOLERANCE)
})

test('the writer of visual tokens, for the prompt and for tokens fed back', async () => {
  const layer = (index: number): Shapes => {
    const name = `model.language_model.layers.${index}`
    return {
      ...linearShapes({
        [`${name}.self_attn.q_proj`]: [64, 64],
        [`${name}.self_attn.k_proj`]: [32, 64],
        [`${name}.self_attn.v_proj`]: [32, 64],
      }),
      [`${name}.self_attn.o_proj.weight`]: [64, 64],
      [`${name}.mlp.gate_up_proj.weight`]: [96, 64],
      [`${name}.mlp.down_proj.weight`]: [64, 48],
      [`${name}.input_layernorm.weight`]: [64],
      [`${name}.post_self_attn_layernorm.weight`]: [64],
      [`${name}.post_attention_layernorm.weight`]: [64],
      [`${name}.post_mlp_layernorm.weight`]: [64],
    }
  }
  const tensors = await writeModel('tokens', {
    'model.language_model.embed_tokens.weight': [96, 64],
    'model.language_model.norm.weight': [64],
    'lm_head.weight': [20, 64],
    ...layer(0),
    ...layer(1),
  })
  const config = autoregressiveSchema.parse({
    image_start_token_id: 16,
    text_config: {
      hidden_size: 64,
      intermediate_size: 48,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      head_dim: 16,
      num_hidden_layers: 2,
      vocab_size: 96,
      vision_vocab_size: 20,
      rope_parameters: { mrope_section: [1, 1, 2] },
    },
    vq_config: { num_embeddings: 16 },
  })
  const graph = buildDecoder({
    config,
    tensors,
    compute: 'float32',
    choice: 'forced',
    sampling: { temperature: 1, topP: 1, topK: 0, codebookSize: config.codebookSize },
    withLogits: true,
  })
  const session = await openSession(graph, { threads: 1 })
  const ids = [50, 51, 52, 60, 61, 62, 16]
  const grids = { large: { rows: 2, columns: 3 }, preview: { rows: 1, columns: 2 } }
  const rotary = createRotaryTable(planPositions(ids.length, grids), config.rope)
  // One more draw than there are tokens, to see the logits after the last of them.
  const forced = BigInt64Array.from([3n, 7n, 1n, 0n, 2n, 5n, 9n, 4n, 0n])
  const run = startDecoderRun(session, config, { ids, rotary, draws: { forced } })
  const { promptLogits, stepLogits } = await run.write(forced.length)
  await session.close()
  const rowOf = (tensor: typeof stepLogits, row: number) =>
    (tensor!.data as Float32Array).slice(row * 20, (row + 1) * 20)
  const prompt = differenceFrom(rowOf(promptLogits, ids.length - 1), {
    first: [
      0.168375, 1.329971, 0.398427, -0.024823, 0.969722, 0.552777, -1.134227, -1.956142, -0.505439,
      -2.454964, 1.045806, -0.166612, -1.01494, -0.729215, -0.920207, -1.563635, 0.215241,
      -0.255341, 0.027535, 0.949229,
    ],
    sum: -5.068462,
  })
  expect(prompt).toBeLessThan(TOLERANCE)
  for (const [row, first, sum] of [
    [0, [0.245038, 0.603956, -2.66315, -1.443256, -2.703905, 1.112984], -7.37726],
    [1, [1.192353, -0.662934, -1.644704, -0.892497, -0.527526, 3.161208], 10.20518],
    [2, [2.223313, -0.81027, -1.23789, -0.414869, 0.753308, 1.635724], 4.72589],
    [7, [2.328904, 0.746035, -1.414913, -0.516739, -0.179299, 1.662488], 3.17361],
  ] as const) {
    expect(differenceFrom(rowOf(stepLogits, row), { first, sum }), `token ${row}`).toBeLessThan(
      TOLERANCE,
    )
  }
})
