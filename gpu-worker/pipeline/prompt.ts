import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Template } from '@huggingface/jinja'
import { CheckpointError } from '../model/safetensors.ts'

/** A token grid: `rows` of `columns` visual tokens. */
export interface Grid {
  readonly rows: number
  readonly columns: number
}

/** The two grids of one picture. Both stand in the prompt; the preview is written first. */
export interface GridPlan {
  readonly large: Grid
  readonly preview: Grid
}

/** Side of a square preview grid: the layout sketch always has about 16 x 16 tokens. */
const PREVIEW_SIDE = 16

/**
 * Plans the grids of a picture. The preview keeps the aspect ratio and truncates each side.
 *
 * @param options.width pixels, a multiple of `cellPixels`; `height` likewise
 */
export function planGrids(options: {
  width: number
  height: number
  cellPixels: number
}): GridPlan {
  const rows = options.height / options.cellPixels
  const columns = options.width / options.cellPixels
  const ratio = rows / columns
  return {
    large: { rows, columns },
    preview: {
      rows: Math.trunc(Math.sqrt(ratio) * PREVIEW_SIDE),
      columns: Math.trunc(Math.sqrt(1 / ratio) * PREVIEW_SIDE),
    },
  }
}

export interface PromptRenderer {
  /** The text-to-image prompt with its grid tokens; rows come before columns. */
  render(prompt: string, grids: GridPlan): string
}

/**
 * Loads a checkpoint's chat template and the names of its grid tokens.
 *
 * @throws CheckpointError naming the file
 */
export async function openPromptRenderer(checkpointDir: string): Promise<PromptRenderer> {
  const folder = join(checkpointDir, 'processor')
  const read = (name: string) =>
    readFile(join(folder, name), 'utf8').catch((cause: unknown) => {
      throw new CheckpointError(`${join(folder, name)}: cannot be read`, { cause })
    })
  const template = new Template(await read('chat_template.jinja'))
  const config: unknown = JSON.parse(await read('tokenizer_config.json'))
  const token = (key: string, fallback?: string): string => {
    const value =
      typeof config === 'object' && config !== null
        ? ((config as Record<string, unknown>)[key] ?? fallback)
        : fallback
    if (typeof value === 'string') return value
    throw new CheckpointError(`${join(folder, 'tokenizer_config.json')}: ${key} must be a string`)
  }
  const open = token('grid_bos_token', '<sop>')
  const close = token('grid_eos_token', '<eop>')
  const start = token('bos_token')
  const grid = ({ rows, columns }: Grid) => `${open}${rows} ${columns}${close}`
  return {
    render(prompt, grids) {
      const content = [{ type: 'text', text: prompt }]
      const text = template.render({ messages: [{ role: 'user', content }] })
      return `${text}${grid(grids.large)}${grid(grids.preview)}${start}`
    },
  }
}
