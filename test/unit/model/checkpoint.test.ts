import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { afterAll, beforeAll, expect, test } from 'vitest'

import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import { openPipeline } from '../../../gpu-worker/pipeline/glm-image.ts'
import { createCheckpointCopies } from '../../support/checkpoints.ts'
import type { CheckpointCopies } from '../../support/checkpoints.ts'
import { PUBLISHED_CONFIGS } from '../../support/published.ts'
import { toFloatBytes, writeSafetensors } from '../../support/safetensors.ts'

const GOLDEN = fileURLToPath(new URL('../../fixtures/golden/checkpoint', import.meta.url))
const SERVED = fileURLToPath(new URL('../../fixtures/checkpoint', import.meta.url))

let copies: CheckpointCopies
beforeAll(async () => {
  copies = await createCheckpointCopies()
})
afterAll(() => copies.remove())

async function withChange(
  file: string,
  change: (config: Record<string, unknown>) => void,
  source = GOLDEN,
) {
  const dir = await copies.copy(source)
  const config = JSON.parse(await readFile(join(dir, file), 'utf8')) as Record<string, unknown>
  change(config)
  await writeFile(join(dir, file), JSON.stringify(config))
  return dir
}
const messageOf = (opening: Promise<unknown>) =>
  opening.then(
    () => 'opened',
    (error: Error) => error.message,
  )

test('keys that the published files leave out have the values of the reference', async () => {
  const dir = await copies.copy(GOLDEN)
  for (const file of [
    'transformer/config.json',
    'text_encoder/config.json',
    'scheduler/scheduler_config.json',
  ]) {
    await writeFile(join(dir, file), '{}')
  }
  await writeFile(join(dir, 'vision_language_encoder/config.json'), '{"text_config":{}}')
  await rm(join(dir, 'vision_language_encoder/generation_config.json'))
  const checkpoint = await openCheckpoint(dir)
  expect(checkpoint.autoregressive).toMatchObject({
    hiddenSize: 4096,
    headDim: 128,
    attentionBias: true,
    codebookSize: 16_384,
    rope: { theta: 10_000, width: 64, section: [8, 12, 12] },
  })
  expect(checkpoint.generation).toEqual({ temperature: 0.9, topP: 0.75, topK: 0 })
  expect(checkpoint.transformer).toMatchObject({ innerSize: 4096, layerCount: 30, timeSize: 512 })
  expect(checkpoint.textEncoder).toMatchObject({ modelSize: 1472, headCount: 6, headDim: 64 })
  expect(checkpoint.scheduler).toMatchObject({ baseShift: 0.25, maxShift: 0.75, baseTokens: 256 })
  expect(checkpoint.serving.size).toMatchObject({ default: '1280x1280', minSide: 1024 })
  expect(checkpoint.cellPixels).toBe(32)
})

test('the published configuration is accepted', async () => {
  const dir = await copies.copy(GOLDEN)
  for (const [file, config] of Object.entries(PUBLISHED_CONFIGS)) {
    await writeFile(join(dir, file), JSON.stringify(config))
  }
  const checkpoint = await openCheckpoint(dir)
  expect(checkpoint.autoregressive.rope).toEqual({
    theta: 10_000,
    width: 64,
    section: [8, 12, 12],
  })
  expect(checkpoint.generation.topK).toBe(16_512)
  expect(checkpoint.vae.scale).toBe(8)
})

const text = (config: Record<string, unknown>) => config['text_config'] as Record<string, unknown>
const rope = (config: Record<string, unknown>) =>
  text(config)['rope_parameters'] as Record<string, unknown>
const size = (config: Record<string, unknown>) => config['size'] as Record<string, unknown>

const AUTOREGRESSIVE = 'vision_language_encoder/config.json'
const GENERATION = 'vision_language_encoder/generation_config.json'
const SCHEDULER = 'scheduler/scheduler_config.json'

/** Every one of these would make other pictures than the reference, or fail in the middle of one. */
test.each<[string, string, (config: Record<string, unknown>) => void, string]>([
  ['a wrong type', 'vae/config.json', (c) => (c.norm_num_groups = '8'), 'norm_num_groups: '],
  [
    'groups that do not divide the channels',
    'vae/config.json',
    (c) => (c.norm_num_groups = 12),
    'block_out_channels: must all be multiples of norm_num_groups = 12',
  ],
  ['too few means', 'vae/config.json', (c) => (c.latents_mean = [0]), 'latents_mean: must have'],
  ['another activation', 'vae/config.json', (c) => (c.act_fn = 'gelu'), 'act_fn: only silu'],
  [
    'other blocks',
    'vae/config.json',
    (c) => (c.up_block_types = ['AttnUpDecoderBlock2D']),
    'up_block_types.0: only UpDecoderBlock2D',
  ],
  [
    'attention in the decoder',
    'vae/config.json',
    (c) => (c.mid_block_add_attention = true),
    'mid_block_add_attention: is not supported: only false or null',
  ],
  [
    'a convolution before the decoder',
    'vae/config.json',
    (c) => (c.use_post_quant_conv = true),
    'use_post_quant_conv: is not supported',
  ],
  ['another shift', SCHEDULER, (c) => (c.time_shift_type = 'exponential'), 'time_shift_type: only'],
  [
    'a fixed shift',
    SCHEDULER,
    (c) => (c.use_dynamic_shifting = false),
    'use_dynamic_shifting: only true',
  ],
  ...[
    'use_karras_sigmas',
    'use_exponential_sigmas',
    'use_beta_sigmas',
    'invert_sigmas',
    'stochastic_sampling',
  ].map((key): [string, string, (config: Record<string, unknown>) => void, string] => [
    key,
    SCHEDULER,
    (c) => (c[key] = true),
    `${key}: is not supported: only false or null`,
  ]),
  [
    'a terminal shift',
    SCHEDULER,
    (c) => (c.shift_terminal = 0.1),
    'shift_terminal: is not supported',
  ],
  [
    'sections that leave out frequencies',
    AUTOREGRESSIVE,
    (c) => (rope(c).mrope_section = [2, 3, 2]),
    'text_config.rope_parameters.mrope_section: must sum to half the rotary dimensions of a head: 8, not 7',
  ],
  [
    'an odd number of rotary dimensions',
    AUTOREGRESSIVE,
    (c) => (rope(c).partial_rotary_factor = 0.54),
    'text_config.rope_parameters.partial_rotary_factor: gives 17 rotary dimensions',
  ],
  [
    'another kind of rotation',
    AUTOREGRESSIVE,
    (c) => (rope(c).rope_type = 'yarn'),
    'text_config.rope_parameters.rope_type: only default',
  ],
  [
    'a rotation in the words of older files',
    AUTOREGRESSIVE,
    (c) => (text(c).rope_scaling = { type: 'linear', factor: 2 }),
    'text_config.rope_scaling: is not supported',
  ],
  [
    'two bases of rotation',
    AUTOREGRESSIVE,
    (c) => (text(c).rope_theta = 500),
    'text_config.rope_theta: must equal rope_parameters.rope_theta = 10000',
  ],
  [
    'another activation of the writer',
    AUTOREGRESSIVE,
    (c) => (text(c).hidden_act = 'gelu'),
    'text_config.hidden_act: only silu',
  ],
  [
    'fewer logits than codes',
    AUTOREGRESSIVE,
    (c) => (text(c).vision_vocab_size = 127),
    'text_config.vision_vocab_size: must be at least vq_config.num_embeddings = 128',
  ],
  ['greedy decoding', GENERATION, (c) => (c.do_sample = false), 'do_sample: only true'],
  [
    'a penalty',
    GENERATION,
    (c) => (c.repetition_penalty = 1.1),
    'repetition_penalty: only 1 is supported',
  ],
  [
    'another feed-forward layer',
    'text_encoder/config.json',
    (c) => (c.feed_forward_proj = 'relu'),
    'feed_forward_proj: only gated-gelu',
  ],
  [
    'another activation of quoted text',
    'text_encoder/config.json',
    (c) => (c.dense_act_fn = 'gelu'),
    'dense_act_fn: only gelu_new',
  ],
  [
    'files that disagree',
    'transformer/config.json',
    (c) => (c.text_embed_dim = 47),
    'text_embed_dim must equal d_model of text_encoder/config.json',
  ],
  [
    'a default size off the grid',
    'serving.json',
    (c) => (size(c).default = '250x256'),
    'size.default: 250x256 must be recommended or within the limits',
  ],
  [
    'a recommended size off the grid',
    'serving.json',
    (c) => (size(c).recommended = ['256x256', '1280x1000']),
    'size.recommended: both sides of 1280x1000 must be multiples of 32',
  ],
  ['more steps than a request may ask', 'serving.json', (c) => (c.steps = 101), 'steps: '],
])('%s is refused with file and key: %s', async (_name, file, change, reason) => {
  const dir = await withChange(file, change, SERVED)
  const message = await messageOf(openCheckpoint(dir))
  expect(message).toContain(`${join(dir, file)}: `)
  expect(message).toContain(reason)
})

test.each([
  ['decoder.mid_block.attentions.0.to_q.weight', 'mid_block_add_attention'],
  ['post_quant_conv.weight', 'use_post_quant_conv'],
])('a decoder with %s is refused although its configuration is silent', async (tensor, key) => {
  const dir = await withChange('vae/config.json', (config) => {
    delete config[key]
  })
  const bytes = toFloatBytes(Float32Array.of(1), 'F32')
  await writeSafetensors(join(dir, 'vae/more.safetensors'), [
    { name: tensor, dtype: 'F32', shape: [1], bytes },
  ])
  expect(await messageOf(openPipeline(dir))).toBe(
    `${join(dir, 'vae/more.safetensors')}: tensor ${tensor} belongs to ${key} of vae/config.json, which is not supported`,
  )
})

test('weights of another shape than the configuration says are refused by name', async () => {
  const dir = await withChange('transformer/config.json', (config) => {
    config.time_embed_dim = 64
  })
  expect(await messageOf(openPipeline(dir))).toMatch(
    /tensor time_condition_embed\.\S+ has shape \[32/,
  )
})

test('a missing layer is refused by name', async () => {
  const dir = await withChange('transformer/config.json', (config) => {
    config.num_layers = 3
  })
  expect(await messageOf(openPipeline(dir))).toMatch(/tensor transformer_blocks\.2\.\S+ is missing/)
})

test('the hash names the model: equal for a copy, another for another configuration or training', async () => {
  const hashOf = async (dir: string) => (await openCheckpoint(dir)).hash()
  const original = await hashOf(GOLDEN)
  expect(await hashOf(await copies.copy(GOLDEN))).toBe(original)
  const other = await withChange('vae/config.json', (config) => {
    config.latents_mean = Array<number>(16).fill(0)
  })
  expect(await hashOf(other)).not.toBe(original)
  for (const [folder, tensor] of [
    ['transformer', 'proj_out.bias'],
    // Longer than what is read of it.
    ['vision_language_encoder', 'model.language_model.embed_tokens.weight'],
  ] as const) {
    expect(await hashOf(await copies.fill(GOLDEN, folder, tensor, 0.5)), tensor).not.toBe(original)
  }
})
