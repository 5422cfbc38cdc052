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
import { createRotaryTable } from '../../../gpu-worker/model/rope.ts'
import { openTensors } from '../../../gpu-worker/model/safetensors.ts'
import { visionSchema } from '../../../gpu-worker/model/editing.ts'
import { buildVaeDecoder } from '../../../gpu-worker/model/vae.ts'
import { buildVaeEncoder } from '../../../gpu-worker/model/vae-encoder.ts'
import { buildVisionTower } from '../../../gpu-worker/model/vision.ts'
import { startDecoderRun } from '../../../gpu-worker/pipeline/decoder-run.ts'
import { openDenoiser } from '../../../gpu-worker/pipeline/denoise.ts'
import { fromPatches, toPatches } from '../../../gpu-worker/pipeline/patches.ts'
import { openGlyphEncoder } from '../../../gpu-worker/pipeline/glyph-encoder.ts'
import { planPositions } from '../../../gpu-worker/pipeline/positions.ts'
import { openDecoder } from '../../../gpu-worker/pipeline/decoder-session.ts'
import { BACKENDS, openSession } from '../../../gpu-worker/pipeline/session.ts'
import { samplePositions } from '../../../gpu-worker/pipeline/source-grid.ts'
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

test('the denoiser with and without the prompt, and with a condition image', async () => {
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
  const inputs = {
    glyph: { data: glyph, shape: [3, 6] },
    glyphNull: { data: glyph.slice(0, 6), shape: [1, 6] },
    priorIds: [0, 3, 6, 9, 2, 5, 8, 1],
    height: 64,
    width: 128,
  }
  const conditions = await denoiser.prepare(inputs)
  const layout = { channels: 4, rows: 4, columns: 8, patch: 2 }
  const patches = toPatches(createNumbers(128, 1), layout)
  const { conditional, unconditional } = await denoiser.evaluate(patches, 979, conditions, {
    guided: true,
  })
  const sources = await denoiser.readSource({
    patches: toPatches(createNumbers(64, 3), { channels: 4, rows: 4, columns: 4, patch: 2 }),
    priorIds: [1, 2, 3, 4],
    height: 64,
    width: 64,
  })
  const edit = await denoiser.prepare({ ...inputs, sources })
  const edited = await denoiser.evaluate(patches, 979, edit, { guided: true })
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
  const withSource = differenceFrom(fromPatches(edited.conditional, layout), {
    first: [-0.586912, -0.820503, 0.923694, -0.387561, 1.273046, 0.416513],
    last: [-0.171007, 0.382223, -0.399331],
    sum: 11.8542,
    absoluteSum: 71.59595,
  })
  expect(withPrompt).toBeLessThan(TOLERANCE)
  expect(withoutPrompt).toBeLessThan(TOLERANCE)
  expect(withSource).toBeLessThan(TOLERANCE)
  expect(edited.unconditional).toEqual(unconditional)
})

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

test('the picture decoder before scaling to pixels', async () => {
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

test('the encoder from pixels to latents', async () => {
  const tensors = await writeModel('pictures-to-latents', {
    ...conv('encoder.conv_in', 8, 3),
    ...resnet('encoder.down_blocks.0.resnets.0', 8, 8),
    ...conv('encoder.down_blocks.0.downsamplers.0.conv', 8, 8),
    ...resnet('encoder.down_blocks.1.resnets.0', 8, 8),
    ...conv('encoder.down_blocks.1.downsamplers.0.conv', 8, 8),
    ...resnet('encoder.down_blocks.2.resnets.0', 8, 16),
    ...resnet('encoder.mid_block.resnets.0', 16, 16),
    ...resnet('encoder.mid_block.resnets.1', 16, 16),
    ...norm('encoder.conv_norm_out', 16),
    ...conv('encoder.conv_out', 8, 16),
  })
  const config = vaeSchema.parse({
    block_out_channels: [8, 8, 16],
    layers_per_block: 1,
    latent_channels: 4,
    norm_num_groups: 4,
    latents_mean: [1, 2, 3, 4],
    latents_std: [2, 2, 4, 4],
  })
  const session = await openSession(buildVaeEncoder(config, tensors), { threads: 1 })
  const image = { data: createNumbers(288, 5), shape: [1, 3, 8, 12] }
  const { mean, latents } = await session.run({ image })
  await session.close()
  expect(mean?.shape).toEqual([1, 4, 2, 3])
  const values = mean!.data as Float32Array
  const difference = differenceFrom(values, {
    first: [1.694207, 1.223425, 0.965079, -0.826351, -0.239219, 0.06061],
    last: [0.017051, 2.445158, 0.940671],
    sum: 11.3554,
    absoluteSum: 19.84464,
  })
  expect(difference).toBeLessThan(TOLERANCE)
  const scaled = latents!.data as Float32Array
  expect(scaled[0]).toBeCloseTo((values[0]! - 1) / 2, 5)
  expect(scaled[23]).toBeCloseTo((values[23]! - 4) / 4, 5)
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

/** A small writer with the vision tower that reads for it. */
async function writeWriter(name: string) {
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
  const tensors = await writeModel(name, {
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
  return { tensors, config }
}

test.each(BACKENDS)(
  'the writer of visual tokens, for the prompt and for tokens fed back: %s',
  async (backend) => {
    const { tensors, config } = await writeWriter(`tokens-${backend}`)
    const model = {
      config,
      tensors,
      compute: 'float32',
      choice: 'forced',
      sampling: { temperature: 1, topP: 1, topK: 0, codebookSize: config.codebookSize },
      withLogits: true,
    } as const
    const decoder = await openDecoder(model, { threads: 1, backend })
    const ids = [50, 51, 52, 60, 61, 62, 16]
    const grids = { large: { rows: 2, columns: 3 }, preview: { rows: 1, columns: 2 } }
    const rotary = createRotaryTable(planPositions(ids.length, grids), config.rope)
    // One more draw than there are tokens, to see the logits after the last of them.
    const forced = BigInt64Array.from([3n, 7n, 1n, 0n, 2n, 5n, 9n, 4n, 0n])
    const run = startDecoderRun(decoder, { ids, rotary, draws: { forced } })
    const { promptLogits, stepLogits } = await run.write(forced.length)
    await decoder.close()
    const rowOf = (tensor: typeof stepLogits, row: number) =>
      (tensor!.data as Float32Array).slice(row * 20, (row + 1) * 20)
    const prompt = differenceFrom(rowOf(promptLogits, ids.length - 1), {
      first: [
        0.168375, 1.329971, 0.398427, -0.024823, 0.969722, 0.552777, -1.134227, -1.956142,
        -0.505439, -2.454964, 1.045806, -0.166612, -1.01494, -0.729215, -0.920207, -1.563635,
        0.215241, -0.255341, 0.027535, 0.949229,
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
  },
)

test.each(BACKENDS)(
  'codes of a condition image, and the writer after a prompt that holds them: %s',
  async (backend) => {
    const vision = visionSchema.parse({
      vision_config: {
        depth: 2,
        hidden_size: 24,
        num_heads: 2,
        patch_size: 4,
        image_size: 32,
        intermediate_size: 40,
      },
      vq_config: { embed_dim: 10, num_embeddings: 16 },
    })
    const block = (index: number): Shapes => {
      const name = `model.visual.blocks.${index}`
      return {
        ...norm(`${name}.norm1`, 24),
        ...norm(`${name}.norm2`, 24),
        ...linearShapes({
          [`${name}.attn.qkv`]: [72, 24],
          [`${name}.attn.proj`]: [24, 24],
          [`${name}.mlp.fc1`]: [40, 24],
          [`${name}.mlp.fc2`]: [24, 40],
        }),
      }
    }
    const eyes = await writeModel(`vision-${backend}`, {
      ...conv('model.visual.patch_embed.proj', 24, 3, 4),
      'model.visual.embeddings.position_embedding.weight': [64, 24],
      ...block(0),
      ...block(1),
      ...conv('model.vqmodel.quant_conv', 10, 24, 1),
      'model.vqmodel.quantize.embedding.weight': [16, 10],
    })
    const grid = { rows: 2, columns: 3 }
    const tower = await openSession(buildVisionTower(vision, eyes, 'float32'), {
      threads: 1,
      backend,
    })
    const { corners, shares } = samplePositions(grid, vision.positionSide)
    const { codes, features } = await tower.run({
      patches: { data: createNumbers(288, 6), shape: [6, 48] },
      corners: { data: corners, shape: [4, 6] },
      shares: { data: shares, shape: [4, 6] },
    })
    await tower.close()
    const difference = differenceFrom(features!.data as Float32Array, {
      first: [1.225188, -0.145105, 2.991824, -0.449246, 0.388225, -0.770115],
      last: [0.229891, 0.593537, 1.619615],
      sum: 35.48449,
      absoluteSum: 147.52495,
    })
    expect(difference).toBeLessThan(TOLERANCE)
    expect(Array.from(codes!.data, Number)).toEqual([7, 6, 7, 7, 7, 7])

    const { tensors, config } = await writeWriter(`tokens-after-image-${backend}`)
    const ids = [16, 7, 6, 7, 7, 7, 7, 17, 50, 51, 60, 61, 16]
    const grids = { large: { rows: 2, columns: 2 }, preview: null }
    const positions = planPositions(ids.length, grids, [{ start: 1, ...grid }])
    expect(positions).toEqual({
      temporal: [0, 1, 1, 1, 1, 1, 1, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10, 12],
      height: [0, 1, 1, 1, 2, 2, 2, 4, 5, 6, 7, 8, 9, 10, 10, 11, 11, 12],
      width: [0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 10, 11, 12],
    })
    const model = {
      config,
      tensors,
      compute: 'float32',
      choice: 'forced',
      sampling: { temperature: 1, topP: 1, topK: 0, codebookSize: config.codebookSize },
      withLogits: true,
    } as const
    const decoder = await openDecoder(model, { threads: 1, backend })
    const rotary = createRotaryTable(positions, config.rope)
    const run = startDecoderRun(decoder, {
      ids,
      rotary,
      draws: { forced: BigInt64Array.of(0n) },
    })
    const { promptLogits } = await run.write(1)
    await decoder.close()
    const last = (promptLogits!.data as Float32Array).slice(-20)
    const ofLast = differenceFrom(last, {
      first: [-0.782761, 0.667067, -0.9232, 1.260689, -0.42307, -2.372547],
      sum: -5.65835,
    })
    expect(ofLast).toBeLessThan(TOLERANCE)
  },
)
