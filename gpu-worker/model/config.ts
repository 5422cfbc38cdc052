import { z } from 'zod'

/**
 * The configuration files of a checkpoint, in the names of the field.
 *
 * Keys that the published files leave out have the values of the reference implementation here. Keys that would
 * change the arithmetic are refused unless they ask for what the graphs do. All others are ignored: the files carry
 * many that only training or editing uses.
 */

const count = z.int().positive()
const positive = z.number().positive()

/** The one value that the graphs know, which is also the published one. */
const only = <Value extends string | number | boolean>(value: Value) =>
  z.literal(value, { error: `only ${value} is supported` })

/** A branch of the reference that the graphs do not have. */
const off = z
  .union([z.literal(false), z.null()], { error: 'is not supported: only false or null' })
  .optional()

const ropeSchema = z.object({
  rope_type: only('default').optional(),
  rope_theta: positive.default(10_000),
  partial_rotary_factor: z.number().positive().max(1).default(0.5),
  mrope_section: z.array(z.int().nonnegative()).length(3).default([8, 12, 12]),
})

const decoderSchema = z
  .object({
    hidden_size: count.default(4096),
    num_hidden_layers: count.default(40),
    num_attention_heads: count.default(32),
    num_key_value_heads: count.default(2),
    head_dim: count.nullish(),
    hidden_act: only('silu').optional(),
    intermediate_size: count.default(13_696),
    attention_bias: z.boolean().default(true),
    rms_norm_eps: positive.default(1e-5),
    vocab_size: count.default(168_064),
    vision_vocab_size: count.default(16_512),
    rope_parameters: ropeSchema.prefault({}),
    /** Where older files state what rope_parameters states now. */
    rope_scaling: z.null({ error: 'is not supported: rope_parameters is read' }).optional(),
    rope_theta: positive.nullish(),
    partial_rotary_factor: positive.nullish(),
  })
  .superRefine((raw, context) => {
    const refuse = (path: string[], message: string) =>
      context.addIssue({ code: 'custom', path, message })
    if (raw.num_attention_heads % raw.num_key_value_heads !== 0) {
      refuse(['num_attention_heads'], 'must be a multiple of num_key_value_heads')
    }
    if (!Number.isInteger(headDimOf(raw))) {
      refuse(['hidden_size'], 'must be a multiple of num_attention_heads when head_dim is absent')
    }
    for (const key of ['rope_theta', 'partial_rotary_factor'] as const) {
      if ((raw[key] ?? raw.rope_parameters[key]) === raw.rope_parameters[key]) continue
      refuse([key], `must equal rope_parameters.${key} = ${raw.rope_parameters[key]}`)
    }
    const width = rotaryWidthOf(raw)
    if (width === 0 || width % 2 !== 0) {
      const rule = `gives ${width} rotary dimensions of a head, which must be even and not 0`
      refuse(['rope_parameters', 'partial_rotary_factor'], rule)
    }
    const sum = raw.rope_parameters.mrope_section.reduce((total, part) => total + part, 0)
    if (sum !== width / 2) {
      const rule = `must sum to half the rotary dimensions of a head: ${width / 2}, not ${sum}`
      refuse(['rope_parameters', 'mrope_section'], rule)
    }
  })
  .transform((raw) => ({
    hiddenSize: raw.hidden_size,
    layerCount: raw.num_hidden_layers,
    headCount: raw.num_attention_heads,
    keyValueHeadCount: raw.num_key_value_heads,
    headDim: headDimOf(raw),
    intermediateSize: raw.intermediate_size,
    attentionBias: raw.attention_bias,
    normEpsilon: raw.rms_norm_eps,
    vocabularySize: raw.vocab_size,
    visionVocabularySize: raw.vision_vocab_size,
    rope: {
      theta: raw.rope_parameters.rope_theta,
      /** Dimensions of a head that are rotated. */
      width: rotaryWidthOf(raw),
      section: raw.rope_parameters.mrope_section,
    },
  }))

interface RawHeads {
  hidden_size: number
  num_attention_heads: number
  head_dim?: number | null | undefined
}

function headDimOf(raw: RawHeads): number {
  return raw.head_dim ?? raw.hidden_size / raw.num_attention_heads
}

/** Truncated, as the reference does. */
function rotaryWidthOf(
  raw: RawHeads & { rope_parameters: { partial_rotary_factor: number } },
): number {
  return Math.trunc(headDimOf(raw) * raw.rope_parameters.partial_rotary_factor)
}

/** `vision_language_encoder/config.json`: the writer of visual tokens. */
export const autoregressiveSchema = z
  .object({
    image_start_token_id: z.int().nonnegative().default(16_384),
    text_config: decoderSchema,
    vq_config: z.object({ num_embeddings: count.default(16_384) }).prefault({}),
  })
  .superRefine((raw, context) => {
    if (raw.text_config.visionVocabularySize >= raw.vq_config.num_embeddings) return
    const message = `must be at least vq_config.num_embeddings = ${raw.vq_config.num_embeddings}`
    context.addIssue({ code: 'custom', path: ['text_config', 'vision_vocab_size'], message })
  })
  .transform((raw) => ({
    ...raw.text_config,
    /** The last token of a prompt. */
    imageStartTokenId: raw.image_start_token_id,
    codebookSize: raw.vq_config.num_embeddings,
  }))
export type AutoregressiveConfig = z.output<typeof autoregressiveSchema>

/** `vision_language_encoder/generation_config.json`: how tokens are sampled. */
export const generationSchema = z
  .object({
    do_sample: only(true).optional(),
    temperature: positive.default(0.9),
    top_p: z.number().positive().max(1).default(0.75),
    top_k: z.int().nonnegative().nullish(),
    repetition_penalty: only(1).nullish(),
  })
  .transform((raw) => ({
    temperature: raw.temperature,
    topP: raw.top_p,
    /** 0 is off. */
    topK: raw.top_k ?? 0,
  }))
export type GenerationConfig = z.output<typeof generationSchema>

/** `text_encoder/config.json`: the byte-level encoder of quoted text. */
export const textEncoderSchema = z
  .object({
    d_model: count.default(1472),
    d_kv: count.default(64),
    num_heads: count.default(6),
    d_ff: count.default(3584),
    num_layers: count.default(12),
    vocab_size: count.default(384),
    layer_norm_epsilon: positive.default(1e-6),
    relative_attention_num_buckets: z.int().min(4).multipleOf(4).default(32),
    relative_attention_max_distance: count.default(128),
    feed_forward_proj: only('gated-gelu').optional(),
    dense_act_fn: only('gelu_new').optional(),
    is_gated_act: only(true).optional(),
  })
  .transform((raw) => ({
    modelSize: raw.d_model,
    headDim: raw.d_kv,
    headCount: raw.num_heads,
    feedForwardSize: raw.d_ff,
    layerCount: raw.num_layers,
    vocabularySize: raw.vocab_size,
    normEpsilon: raw.layer_norm_epsilon,
    bucketCount: raw.relative_attention_num_buckets,
    maxDistance: raw.relative_attention_max_distance,
  }))
export type TextEncoderConfig = z.output<typeof textEncoderSchema>

/** `transformer/config.json`: the denoiser. */
export const transformerSchema = z
  .object({
    attention_head_dim: z.int().positive().multipleOf(4).default(128),
    num_attention_heads: count.default(32),
    num_layers: count.default(30),
    patch_size: count.default(2),
    in_channels: count.default(16),
    out_channels: count.default(16),
    text_embed_dim: count.default(1472),
    time_embed_dim: z.int().positive().multipleOf(2).default(512),
    condition_dim: z.int().positive().multipleOf(2).default(256),
    prior_vq_quantizer_codebook_size: count.default(16_384),
  })
  .transform((raw) => ({
    headDim: raw.attention_head_dim,
    headCount: raw.num_attention_heads,
    innerSize: raw.attention_head_dim * raw.num_attention_heads,
    layerCount: raw.num_layers,
    patchSize: raw.patch_size,
    inChannels: raw.in_channels,
    outChannels: raw.out_channels,
    textSize: raw.text_embed_dim,
    timeSize: raw.time_embed_dim,
    conditionSize: raw.condition_dim,
    codebookSize: raw.prior_vq_quantizer_codebook_size,
  }))
export type TransformerConfig = z.output<typeof transformerSchema>

/** `vae/config.json`: between latents and pixels. */
export const vaeSchema = z
  .object({
    block_out_channels: z.array(count).min(1).default([128, 512, 1024, 1024]),
    layers_per_block: count.default(3),
    latent_channels: count.default(16),
    out_channels: z.literal(3).default(3),
    norm_num_groups: count.default(32),
    act_fn: z.enum(['silu', 'swish'], { error: 'only silu is supported' }).optional(),
    up_block_types: z.array(only('UpDecoderBlock2D')).optional(),
    mid_block_add_attention: off,
    use_post_quant_conv: off,
    latents_mean: z.array(z.number()),
    latents_std: z.array(positive),
  })
  .superRefine((raw, context) => {
    for (const key of ['latents_mean', 'latents_std'] as const) {
      if (raw[key].length === raw.latent_channels) continue
      const message = `must have latent_channels = ${raw.latent_channels} numbers`
      context.addIssue({ code: 'custom', path: [key], message })
    }
    if (raw.block_out_channels.some((channels) => channels % raw.norm_num_groups !== 0)) {
      const message = `must all be multiples of norm_num_groups = ${raw.norm_num_groups}`
      context.addIssue({ code: 'custom', path: ['block_out_channels'], message })
    }
  })
  .transform((raw) => ({
    blockChannels: raw.block_out_channels,
    layersPerBlock: raw.layers_per_block,
    latentChannels: raw.latent_channels,
    outChannels: raw.out_channels,
    normGroups: raw.norm_num_groups,
    latentsMean: raw.latents_mean,
    latentsStd: raw.latents_std,
    /** Pixels along one side of a latent cell. */
    scale: 2 ** (raw.block_out_channels.length - 1),
  }))
export type VaeConfig = z.output<typeof vaeSchema>

/** `scheduler/scheduler_config.json`: flow matching with a shift that grows with the picture. */
export const schedulerSchema = z
  .object({
    num_train_timesteps: count.default(1000),
    base_shift: z.number().default(0.25),
    max_shift: z.number().default(0.75),
    base_image_seq_len: count.default(256),
    use_dynamic_shifting: only(true).optional(),
    time_shift_type: only('linear').optional(),
    use_karras_sigmas: off,
    use_exponential_sigmas: off,
    use_beta_sigmas: off,
    invert_sigmas: off,
    shift_terminal: off,
    stochastic_sampling: off,
  })
  .transform((raw) => ({
    trainTimesteps: raw.num_train_timesteps,
    baseShift: raw.base_shift,
    maxShift: raw.max_shift,
    baseTokens: raw.base_image_seq_len,
  }))
export type SchedulerConfig = z.output<typeof schedulerSchema>
