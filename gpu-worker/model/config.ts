import { z } from 'zod'

/**
 * The configuration files of a checkpoint, in the names of the field.
 *
 * Keys that the published files leave out have the values of the reference implementation here. Unknown keys
 * are ignored: the files carry many that only training uses.
 */

const count = z.int().positive()
const positive = z.number().positive()

const ropeSchema = z
  .object({
    rope_theta: positive.default(10_000),
    partial_rotary_factor: z.number().positive().max(1).default(0.5),
    mrope_section: z.array(z.int().nonnegative()).length(3).default([8, 12, 12]),
  })
  .transform((raw) => ({
    theta: raw.rope_theta,
    partialRotaryFactor: raw.partial_rotary_factor,
    section: raw.mrope_section,
  }))

const decoderSchema = z
  .object({
    hidden_size: count.default(4096),
    num_hidden_layers: count.default(40),
    num_attention_heads: count.default(32),
    num_key_value_heads: count.default(2),
    head_dim: count.nullish(),
    intermediate_size: count.default(13_696),
    attention_bias: z.boolean().default(true),
    rms_norm_eps: positive.default(1e-5),
    vocab_size: count.default(168_064),
    vision_vocab_size: count.default(16_512),
    rope_parameters: ropeSchema.prefault({}),
  })
  .refine((raw) => raw.num_attention_heads % raw.num_key_value_heads === 0, {
    path: ['num_attention_heads'],
    error: 'must be a multiple of num_key_value_heads',
  })
  .transform((raw) => ({
    hiddenSize: raw.hidden_size,
    layerCount: raw.num_hidden_layers,
    headCount: raw.num_attention_heads,
    keyValueHeadCount: raw.num_key_value_heads,
    headDim: raw.head_dim ?? raw.hidden_size / raw.num_attention_heads,
    intermediateSize: raw.intermediate_size,
    attentionBias: raw.attention_bias,
    normEpsilon: raw.rms_norm_eps,
    vocabularySize: raw.vocab_size,
    visionVocabularySize: raw.vision_vocab_size,
    rope: raw.rope_parameters,
  }))
  .refine((config) => Number.isInteger(config.headDim), {
    path: ['hidden_size'],
    error: 'must be a multiple of num_attention_heads when head_dim is absent',
  })

/** `vision_language_encoder/config.json`: the writer of visual tokens. */
export const autoregressiveSchema = z
  .object({
    image_start_token_id: z.int().nonnegative().default(16_384),
    image_end_token_id: z.int().nonnegative().default(16_385),
    image_token_id: z.int().nonnegative().default(167_855),
    text_config: decoderSchema,
    vq_config: z.object({ num_embeddings: count.default(16_384) }).prefault({}),
  })
  .transform((raw) => ({
    ...raw.text_config,
    imageStartTokenId: raw.image_start_token_id,
    imageEndTokenId: raw.image_end_token_id,
    imageTokenId: raw.image_token_id,
    codebookSize: raw.vq_config.num_embeddings,
  }))
export type AutoregressiveConfig = z.output<typeof autoregressiveSchema>

/** `vision_language_encoder/generation_config.json`: how tokens are sampled. */
export const generationSchema = z
  .object({
    temperature: positive.default(0.9),
    top_p: z.number().positive().max(1).default(0.75),
    top_k: z.int().nonnegative().default(16_512),
  })
  .transform((raw) => ({ temperature: raw.temperature, topP: raw.top_p, topK: raw.top_k }))
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
    mid_block_add_attention: z
      .literal(false, { error: 'attention in the middle block is not supported' })
      .default(false),
    use_post_quant_conv: z
      .literal(false, { error: 'a convolution before the decoder is not supported' })
      .default(false),
    latents_mean: z.array(z.number()),
    latents_std: z.array(positive),
  })
  .superRefine((raw, context) => {
    for (const key of ['latents_mean', 'latents_std'] as const) {
      if (raw[key].length === raw.latent_channels) continue
      const message = `must have latent_channels = ${raw.latent_channels} numbers`
      context.addIssue({ code: 'custom', path: [key], message })
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
    use_dynamic_shifting: z
      .literal(true, { error: 'only dynamic shifting is supported' })
      .default(true),
    time_shift_type: z
      .literal('linear', { error: 'only the linear shift is supported' })
      .default('linear'),
  })
  .transform((raw) => ({
    trainTimesteps: raw.num_train_timesteps,
    baseShift: raw.base_shift,
    maxShift: raw.max_shift,
    baseTokens: raw.base_image_seq_len,
  }))
export type SchedulerConfig = z.output<typeof schedulerSchema>

const sizeText = z.string().regex(/^[1-9]\d{0,4}x[1-9]\d{0,4}$/, 'must look like 1280x1280')

/** The published limits of the model: the two wide sizes are allowed by name although a side is below the least. */
const GLM_IMAGE_SIZES = {
  default: '1280x1280',
  recommended: [
    '1280x1280',
    '1568x1056',
    '1056x1568',
    '1472x1088',
    '1088x1472',
    '1728x960',
    '960x1728',
  ],
  min_side: 1024,
  max_side: 2048,
  multiple_of: 32,
  max_pixels: 4_194_304,
}

/** `serving.json`, our own optional file beside the folders: what the server offers of this checkpoint. */
export const servingSchema = z
  .object({
    model: z.string().min(1).default('glm-image'),
    notice: z.string().nullable().default(null),
    size: z
      .object({
        default: sizeText,
        recommended: z.array(sizeText).min(1),
        min_side: count,
        max_side: count,
        multiple_of: count,
        max_pixels: count,
      })
      .prefault(GLM_IMAGE_SIZES),
    steps: count.default(50),
    guidance_scale: z.number().nonnegative().default(1.5),
  })
  .transform(({ size, ...raw }) => ({
    model: raw.model,
    notice: raw.notice,
    size: {
      default: size.default,
      recommended: size.recommended,
      minSide: size.min_side,
      maxSide: size.max_side,
      multipleOf: size.multiple_of,
      maxPixels: size.max_pixels,
    },
    steps: raw.steps,
    guidanceScale: raw.guidance_scale,
  }))
export type ServingConfig = z.output<typeof servingSchema>

/** Which sizes a checkpoint is offered in; sides and area in pixels, sizes as WIDTHxHEIGHT. */
export type SizeRules = ServingConfig['size']
