import { createHash } from 'node:crypto'
import type { Hash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

import type { z } from 'zod'

import { CheckpointError } from './checkpoint-error.ts'
import {
  autoregressiveSchema,
  generationSchema,
  schedulerSchema,
  textEncoderSchema,
  transformerSchema,
  vaeSchema,
} from './config.ts'
import type {
  AutoregressiveConfig,
  GenerationConfig,
  SchedulerConfig,
  TextEncoderConfig,
  TransformerConfig,
  VaeConfig,
} from './config.ts'
import { openTensors } from './safetensors.ts'
import type { TensorIndex } from './safetensors.ts'
import { readSize, servingSchema, sizeProblem } from './serving.ts'
import type { ServingConfig } from './serving.ts'
import { sampleTensors } from './tensor-data.ts'

/** The folders that hold weights. */
export type TensorFolder = 'vision_language_encoder' | 'transformer' | 'vae' | 'text_encoder'

export interface Checkpoint {
  readonly dir: string
  readonly autoregressive: AutoregressiveConfig
  readonly generation: GenerationConfig
  readonly textEncoder: TextEncoderConfig
  readonly transformer: TransformerConfig
  readonly vae: VaeConfig
  readonly scheduler: SchedulerConfig
  readonly serving: ServingConfig
  /** Pixels along one side of a denoiser patch, and of a cell of the visual token grid (twice that). */
  readonly patchPixels: number
  readonly cellPixels: number
  /** Headers of one folder, read at the first call and kept. */
  tensors(folder: TensorFolder): Promise<TensorIndex>
  /**
   * sha256 (hex) over the safetensors headers and file sizes of one folder, and up to 64 KiB of each of its tensors.
   */
  tensorsHash(folder: TensorFolder): Promise<string>
  /**
   * sha256 (hex) over every configuration file, every safetensors header and file size, and up to 64 KiB of every
   * tensor: another training has another hash. The data of a real checkpoint is too large to be hashed whole at each
   * start, so a change of single numbers may go unseen.
   */
  hash(): Promise<string>
}

export const TENSOR_FOLDERS: readonly TensorFolder[] = [
  'vision_language_encoder',
  'transformer',
  'vae',
  'text_encoder',
]

const CONFIG_FILES = [
  'vision_language_encoder/config.json',
  'vision_language_encoder/generation_config.json',
  'text_encoder/config.json',
  'transformer/config.json',
  'vae/config.json',
  'scheduler/scheduler_config.json',
  'serving.json',
]

/** How condition images are prepared; only editing reads them. */
const IMAGE_FILES = ['processor/processor_config.json', 'processor/preprocessor_config.json']

/** Files that shape the prompt; they belong to the identity of the model too. */
const PROMPT_FILES = [
  'processor/tokenizer.json',
  'processor/tokenizer_config.json',
  'processor/chat_template.jinja',
  'processor/chat_template.json',
]

/**
 * Opens a checkpoint folder in the layout of GLM-Image and checks its configuration.
 *
 * Weights are not touched until a graph asks for them, so this is quick for any size.
 *
 * @throws CheckpointError naming the file, the field and the rule
 */
export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  const read = <Schema extends z.ZodType>(file: string, schema: Schema) =>
    readConfig(dir, file, schema)
  const configs = {
    autoregressive: await read('vision_language_encoder/config.json', autoregressiveSchema),
    generation: await read('vision_language_encoder/generation_config.json', generationSchema),
    textEncoder: await read('text_encoder/config.json', textEncoderSchema),
    transformer: await read('transformer/config.json', transformerSchema),
    vae: await read('vae/config.json', vaeSchema),
    scheduler: await read('scheduler/scheduler_config.json', schedulerSchema),
    serving: await read('serving.json', servingSchema),
  }
  const patchPixels = configs.vae.scale * configs.transformer.patchSize
  const cellPixels = 2 * patchPixels
  checkAgreement(dir, { ...configs, cellPixels })

  const opened = new Map<TensorFolder, Promise<TensorIndex>>()
  const tensors = (folder: TensorFolder) => {
    const known = opened.get(folder) ?? openTensors(join(dir, folder))
    opened.set(folder, known)
    return known
  }
  return {
    dir,
    ...configs,
    patchPixels,
    cellPixels,
    tensors,
    async tensorsHash(folder) {
      const hash = createHash('sha256')
      await addTensors(hash, folder, await tensors(folder))
      return hash.digest('hex')
    },
    hash: () => hashCheckpoint(dir, tensors),
  }
}

type Configs = Pick<
  Checkpoint,
  'autoregressive' | 'textEncoder' | 'transformer' | 'vae' | 'serving' | 'cellPixels'
>

/** Numbers that several files state have to agree, or the graphs would fail with a message about shapes. */
function checkAgreement(dir: string, configs: Configs): void {
  const { autoregressive, textEncoder, transformer, vae, serving, cellPixels } = configs
  const rules: [boolean, string][] = [
    [
      transformer.inChannels === vae.latentChannels &&
        transformer.outChannels === vae.latentChannels,
      'transformer/config.json: in_channels and out_channels must equal latent_channels of vae/config.json',
    ],
    [
      transformer.textSize === textEncoder.modelSize,
      'transformer/config.json: text_embed_dim must equal d_model of text_encoder/config.json',
    ],
    [
      transformer.codebookSize >= autoregressive.codebookSize,
      'transformer/config.json: prior_vq_quantizer_codebook_size must be at least vq_config.num_embeddings',
    ],
    [
      serving.size.multipleOf % cellPixels === 0,
      `serving.json: size.multiple_of must be a multiple of ${cellPixels}`,
    ],
    ...serving.size.recommended.map((text): [boolean, string] => [
      isOnGrid(text, cellPixels),
      `serving.json: size.recommended: both sides of ${text} must be multiples of ${cellPixels}`,
    ]),
    [
      sizeProblem(readSize(serving.size.default), serving.size) === null,
      `serving.json: size.default: ${serving.size.default} must be recommended or within the limits`,
    ],
  ]
  for (const [holds, message] of rules) {
    if (!holds) throw new CheckpointError(join(dir, message))
  }
}

function isOnGrid(text: string, cellPixels: number): boolean {
  const { width, height } = readSize(text)
  return width % cellPixels === 0 && height % cellPixels === 0
}

/** A missing optional file counts as `{}`: its schema knows the defaults. */
const OPTIONAL_FILES = new Set([
  'serving.json',
  'vision_language_encoder/generation_config.json',
  ...IMAGE_FILES,
])

/**
 * Reads one configuration file.
 *
 * @throws CheckpointError naming the file, the field and the rule
 */
export async function readConfig<Schema extends z.ZodType>(
  dir: string,
  file: string,
  schema: Schema,
): Promise<z.output<Schema>> {
  const path = join(dir, file)
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (cause) {
    const isMissing = (cause as NodeJS.ErrnoException).code === 'ENOENT'
    if (!isMissing || !OPTIONAL_FILES.has(file)) {
      throw new CheckpointError(`${path}: ${isMissing ? 'file is missing' : 'cannot be read'}`, {
        cause,
      })
    }
    text = '{}'
  }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new CheckpointError(`${path}: not valid JSON`, { cause })
  }
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issues = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`)
  throw new CheckpointError(`${path}: ${issues.join('; ')}`)
}

async function hashCheckpoint(
  dir: string,
  tensors: (folder: TensorFolder) => Promise<TensorIndex>,
): Promise<string> {
  const hash = createHash('sha256')
  for (const file of [...CONFIG_FILES, ...PROMPT_FILES, ...IMAGE_FILES]) {
    const text = await readFile(join(dir, file)).catch(() => null)
    hash.update(`${file}\0${text?.length ?? -1}\0`)
    if (text) hash.update(text)
  }
  for (const folder of TENSOR_FOLDERS) {
    await addTensors(hash, folder, await tensors(folder))
  }
  return hash.digest('hex')
}

async function addTensors(hash: Hash, folder: TensorFolder, index: TensorIndex): Promise<void> {
  for (const { sizeBytes, header } of index.files) {
    hash.update(`${folder}\0${sizeBytes}\0${header.length}\0`).update(header)
  }
  for await (const bytes of sampleTensors(index)) hash.update(bytes)
}
