import { follow } from './autoregressive.ts'
import { openCase, required } from './cases.ts'
import type { CaseTensors, ParityCase, ParitySubject } from './cases.ts'
import { stepThrough } from './diffusion.ts'
import { compareFloats, compareIntegers } from './report.ts'
import type { ParityRow } from './report.ts'
import { readEditingConfig } from '../model/editing.ts'
import { openDenoiser } from '../pipeline/denoise.ts'
import { fromPatches, toPatches } from '../pipeline/patches.ts'
import { encodeImage } from '../pipeline/encode.ts'
import { openGlyphEncoder } from '../pipeline/glyph-encoder.ts'
import { planPositions } from '../pipeline/positions.ts'
import { openPromptRenderer } from '../pipeline/prompt.ts'
import type { Grid } from '../pipeline/prompt.ts'
import { decodeImage } from '../pipeline/read-image.ts'
import { joinCaches } from '../pipeline/source-cache.ts'
import {
  openLatentEncoder,
  openVisionTower,
  toPlanes,
  toVisionPatches,
} from '../pipeline/source-encoder.ts'
import { planSourceGrid } from '../pipeline/source-grid.ts'
import { readCache } from '../pipeline/source-reader.ts'
import { openTokenizer } from '../pipeline/tokenizer.ts'
import { planWrittenGrids, toPrompt, upsample } from '../pipeline/visual-tokens.ts'

/**
 * Compares an `edit` case, from its condition images as files: what the model is given of them, what it reads in them,
 * the prompt around them, the tokens that follow, and all Euler steps that look at them.
 */
export async function compareEdit(
  subject: ParitySubject,
  parityCase: ParityCase,
): Promise<ParityRow[]> {
  const { checkpoint, dir, options } = subject
  const tensors = await openCase(dir, parityCase.name)
  const sources = await readSources(subject, tensors)
  const input = { checkpoint, options, parityCase, tensors, sources }
  return [
    ...(await compareSources(input)),
    ...(await comparePrompt(input)),
    await compareSteps(input),
  ]
}

interface EditInput extends Pick<ParitySubject, 'checkpoint' | 'options'> {
  parityCase: ParityCase
  tensors: CaseTensors
  sources: ReadSource[]
}

interface ReadSource {
  grid: Grid
  patches: Float32Array
  planes: Float32Array
  codes: Int32Array
  mean: Float32Array
  latents: Float32Array
}

async function readSources(
  { checkpoint, options }: ParitySubject,
  tensors: CaseTensors,
): Promise<ReadSource[]> {
  const { preparation } = await readEditingConfig(checkpoint)
  const tower = await openVisionTower(checkpoint, options)
  const encoder = await openLatentEncoder(checkpoint, options)
  try {
    const sources: ReadSource[] = []
    for (let index = 0; tensors.has(`image_${index}`); index += 1) {
      const [height = 0, width = 0] = tensors.shape(`image_${index}`)
      const size = { width, height }
      const file = await encodeImage(await tensors.bytes(`image_${index}`), size, 'png')
      const pixels = await decodeImage(file.bytes)
      const grid = planSourceGrid(size, preparation)
      sources.push({
        grid,
        patches: toVisionPatches(pixels, grid, preparation),
        planes: toPlanes(pixels, grid, checkpoint.cellPixels),
        codes: await tower.readCodes(pixels, grid),
        ...(await encoder.readLatents(pixels, grid)),
      })
    }
    return sources
  } finally {
    await tower.close()
    await encoder.close()
  }
}

async function compareSources({ parityCase, tensors, sources }: EditInput): Promise<ParityRow[]> {
  const { name } = parityCase
  const codes = sources.flatMap((source) => [...source.codes])
  const patches = sources.flatMap((source) => [...source.patches])
  const upsampled = sources.flatMap((source) => [...upsample(source.codes, source.grid)])
  const rows = [
    compareFloats(name, 'pixel values', patches, await tensors.floats('pixel_values')),
    compareIntegers(name, 'source tokens', codes, await tensors.integers('source_tokens')),
    compareIntegers(
      name,
      'prior token ids of images',
      upsampled,
      await tensors.integers('prior_token_image_ids'),
    ),
  ]
  for (const [index, { planes, mean }] of sources.entries()) {
    const input = await tensors.floats(`vae_input_${index}`)
    const mode = await tensors.floats(`vae_mode_${index}`)
    rows.push(compareFloats(name, `encoder input ${index}`, planes, input))
    rows.push(compareFloats(name, `encoder mean ${index}`, mean, mode))
  }
  return rows
}

async function comparePrompt(input: EditInput): Promise<ParityRow[]> {
  const { checkpoint, parityCase, tensors, sources } = input
  const { name } = parityCase
  const renderer = await openPromptRenderer(checkpoint.dir)
  const tokenizer = await openTokenizer(checkpoint.dir)
  const grids = planWrittenGrids(
    { ...sizeOf(parityCase), cellPixels: checkpoint.cellPixels },
    sources,
  )
  const prompt = required(parityCase, 'prompt')
  const { text, ids, places } = toPrompt({ renderer, tokenizer }, { prompt, grids, sources })
  const positions = planPositions(ids.length, grids, places)
  const axes = [positions.temporal, positions.height, positions.width]
  const forced = await tensors.integers('greedy_tokens')
  const greedy = await follow(input, { ids, positions, choice: 'likeliest', forced })
  const floats = forced.length * checkpoint.autoregressive.visionVocabularySize
  const isSame = text === required(parityCase, 'rendered_prompt')
  const before = axes.flatMap((axis) => axis.slice(0, ids.length))
  return [
    compareIntegers(name, 'rendered prompt', [isSame ? 1 : 0], [1]),
    compareIntegers(name, 'input ids', tokenizer.encode(text), await tensors.integers('input_ids')),
    compareIntegers(name, 'prompt positions', before, await tensors.integers('position_ids')),
    compareIntegers(name, 'greedy tokens', greedy.tokens.slice(0, forced.length), forced),
    compareFloats(
      name,
      'greedy logits',
      greedy.logits.slice(0, floats),
      await tensors.floats('greedy_logits'),
    ),
  ]
}

async function compareSteps(input: EditInput): Promise<ParityRow> {
  const { checkpoint, options, parityCase, tensors, sources } = input
  const { vae, transformer } = checkpoint
  const channels = transformer.inChannels
  const patch = transformer.patchSize
  const { width, height } = sizeOf(parityCase)
  const layout = { channels, patch, rows: height / vae.scale, columns: width / vae.scale }
  const glyphs = await openGlyphEncoder(checkpoint, options)
  const denoiser = await openDenoiser(checkpoint, options)
  try {
    const caches = []
    for (const source of sources) caches.push(await readCache(checkpoint, denoiser, source))
    const conditions = await denoiser.prepare({
      glyph: await glyphs.encode(required(parityCase, 'prompt')),
      glyphNull: await glyphs.encode(''),
      priorIds: await tensors.integers('prior_token_ids'),
      width,
      height,
      sources: joinCaches(caches, transformer),
    })
    const patches = toPatches(await tensors.floats('latents'), layout)
    await stepThrough(checkpoint, denoiser, { parityCase, conditions, patches })
    const expected = await tensors.floats('final_latents')
    return compareFloats(parityCase.name, 'final latents', fromPatches(patches, layout), expected)
  } finally {
    await denoiser.close()
    await glyphs.close()
  }
}

function sizeOf(parityCase: ParityCase): { width: number; height: number } {
  return { width: required(parityCase, 'width'), height: required(parityCase, 'height') }
}
