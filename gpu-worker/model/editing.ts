import { join } from 'node:path'

import { z } from 'zod'

import { readConfig } from './checkpoint.ts'
import type { Checkpoint } from './checkpoint.ts'
import { CheckpointError } from './checkpoint-error.ts'

/**
 * What only editing needs of a checkpoint. It is read when the first condition image comes, so that nothing here can
 * keep a checkpoint from making pictures out of text.
 */

/** Where the tensors of the vision tower and of the codebook stand in the checkpoint. */
export const TOWER_PREFIX = 'model.visual'
export const CODEBOOK_PREFIX = 'model.vqmodel'

const count = z.int().positive()
const positive = z.number().positive()
const triple = z.array(z.number()).length(3)

const only = <Value extends string | number | boolean>(value: Value) =>
  z.literal(value, { error: `only ${value} is supported` })

const towerSchema = z.object({
  depth: count.default(40),
  hidden_size: count.default(1536),
  num_heads: count.default(16),
  intermediate_size: count.default(6144),
  hidden_act: only('gelu').optional(),
  patch_size: count.default(16),
  image_size: count.default(2048),
  in_channels: only(3).optional(),
  layer_norm_eps: positive.default(1e-6),
  attention_bias: only(true).optional(),
  spatial_merge_size: only(1).optional(),
})

/** `vision_language_encoder/config.json`, the parts about condition images. */
export const visionSchema = z
  .object({
    vision_config: towerSchema.prefault({}),
    vq_config: z
      .object({ embed_dim: count.default(2048), num_embeddings: count.default(16_384) })
      .prefault({}),
  })
  .superRefine(({ vision_config: tower }, context) => {
    const refuse = (key: string, message: string) =>
      context.addIssue({ code: 'custom', path: ['vision_config', key], message })
    if (tower.hidden_size % tower.num_heads !== 0) {
      refuse('hidden_size', `must be a multiple of num_heads = ${tower.num_heads}`)
    }
    if (tower.image_size % tower.patch_size !== 0) {
      refuse('image_size', `must be a multiple of patch_size = ${tower.patch_size}`)
    }
  })
  .transform(({ vision_config: tower, ...raw }) => ({
    layerCount: tower.depth,
    hiddenSize: tower.hidden_size,
    headCount: tower.num_heads,
    intermediateSize: tower.intermediate_size,
    patchSize: tower.patch_size,
    normEpsilon: tower.layer_norm_eps,
    /** The learned positions are a square table of so many rows. */
    positionSide: tower.image_size / tower.patch_size,
    codeSize: raw.vq_config.embed_dim,
    codebookSize: raw.vq_config.num_embeddings,
  }))
export type VisionConfig = z.output<typeof visionSchema>

/** `size` is in pixels of the area; the reference takes its square roots for sides. */
const preparationSchema = z
  .object({
    size: z
      .object({
        shortest_edge: count.default(262_144),
        longest_edge: count.default(4_194_304),
      })
      .prefault({}),
    min_pixels: count.nullish(),
    max_pixels: count.nullish(),
    patch_size: count.default(16),
    temporal_patch_size: only(1).optional(),
    merge_size: only(1).optional(),
    resample: only(3).optional(),
    do_resize: only(true).optional(),
    do_rescale: only(true).optional(),
    do_normalize: only(true).optional(),
    rescale_factor: positive.default(1 / 255),
    image_mean: triple.default([0.5, 0.5, 0.5]),
    image_std: z.array(positive).length(3).default([0.5, 0.5, 0.5]),
  })
  .transform((raw) => ({
    /** Sides of the picture as it was sent, before it is read at half its size. */
    minSide: Math.round(Math.sqrt(raw.min_pixels ?? raw.size.shortest_edge)),
    maxSide: Math.round(Math.sqrt(raw.max_pixels ?? raw.size.longest_edge)),
    patchSize: raw.patch_size,
    rescaleFactor: raw.rescale_factor,
    mean: raw.image_mean,
    deviation: raw.image_std,
  }))

/** How a condition image becomes the input of the vision tower. */
export type ImagePreparation = z.output<typeof preparationSchema>

export interface EditingConfig {
  readonly vision: VisionConfig
  readonly preparation: ImagePreparation
}

/**
 * Reads and checks the configuration of editing.
 *
 * @throws CheckpointError naming the file, the field and the rule
 */
export async function readEditingConfig(checkpoint: Checkpoint): Promise<EditingConfig> {
  const { dir, cellPixels } = checkpoint
  const vision = await readConfig(dir, 'vision_language_encoder/config.json', visionSchema)
  const preparation = await readPreparation(dir)
  const { patchSize } = vision
  const fail = (rule: string) =>
    new CheckpointError(join(dir, `vision_language_encoder/config.json: ${rule}`))
  if (preparation.patchSize !== patchSize) {
    throw fail(
      `vision_config.patch_size must equal patch_size of the processor: ${preparation.patchSize}`,
    )
  }
  // Sources are read at half their size, and their grid has to be that of the picture to make.
  if (2 * patchSize !== cellPixels) {
    throw fail(
      `vision_config.patch_size must be half the ${cellPixels} pixels of a token, not ${patchSize}`,
    )
  }
  return { vision, preparation }
}

/** The file of the whole processor comes before that of its image half, as in the reference. */
async function readPreparation(dir: string): Promise<ImagePreparation> {
  const whole = await readConfig(
    dir,
    'processor/processor_config.json',
    z.object({ image_processor: preparationSchema.optional() }),
  )
  return (
    whole.image_processor ??
    readConfig(dir, 'processor/preprocessor_config.json', preparationSchema)
  )
}

/** One tensor of each part that editing adds; without one of them a checkpoint makes pictures out of text alone. */
const EDITING_TENSORS = [
  ['vision_language_encoder', `${TOWER_PREFIX}.patch_embed.proj.weight`],
  ['vision_language_encoder', `${CODEBOOK_PREFIX}.quantize.embedding.weight`],
  ['vae', 'encoder.conv_in.weight'],
] as const

/** Whether a checkpoint has the parts that read condition images. */
export async function canEdit(checkpoint: Checkpoint): Promise<boolean> {
  for (const [folder, name] of EDITING_TENSORS) {
    if (!(await checkpoint.tensors(folder)).has(name)) return false
  }
  return true
}
