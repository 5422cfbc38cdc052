import { join } from 'node:path'
import { Template } from '@huggingface/jinja'
import { isRecord, readJsonObject, readTextIfThere } from '../model/json-file.ts'
import { CheckpointError } from '../model/checkpoint-error.ts'

/** A token grid: `rows` of `columns` visual tokens. */
export interface Grid {
  readonly rows: number
  readonly columns: number
}

/** The grids of one picture. They stand in the prompt; the preview is written first, and an edit has none. */
export interface GridPlan {
  readonly large: Grid
  readonly preview: Grid | null
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
}): GridPlan & { preview: Grid } {
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
  /**
   * The prompt with its grid tokens; rows come before columns.
   *
   * @param sources grids of the condition images: each stands before the text as one image token per cell
   * @throws CheckpointError when there are some and the template has no place for them
   */
  render(prompt: string, grids: GridPlan, sources?: readonly Grid[]): string
  /** The token that ends a prompt, and those around the size of a grid. */
  readonly tokens: { readonly start: string; readonly gridOpen: string; readonly gridClose: string }
  /** What stands for a cell of a condition image. */
  readonly imageToken: string
}

/**
 * Loads a checkpoint's chat template and the names of its grid tokens.
 *
 * @throws CheckpointError naming the file
 */
export async function openPromptRenderer(checkpointDir: string): Promise<PromptRenderer> {
  const folder = join(checkpointDir, 'processor')
  const configPath = join(folder, 'tokenizer_config.json')
  const config = await readJsonObject(configPath)
  const token = (key: string, fallback?: string): string => {
    const text = toTokenText(config[key]) ?? fallback
    if (text !== undefined) return text
    throw new CheckpointError(`${configPath}: ${key} must be a token`)
  }
  const tokens = {
    start: token('bos_token'),
    gridOpen: token('grid_bos_token', '<sop>'),
    gridClose: token('grid_eos_token', '<eop>'),
  }
  const special = Object.fromEntries(
    ['bos_token', 'eos_token', 'pad_token'].map((key) => [key, toTokenText(config[key])]),
  )
  const imageToken = token('image_token', '<|image|>')
  const template = await readTemplate(folder, config)
  const fillIn = compile(template, special)
  const grid = ({ rows, columns }: Grid) =>
    `${tokens.gridOpen}${rows} ${columns}${tokens.gridClose}`
  return {
    tokens,
    imageToken,
    render(prompt, { large, preview }, sources = []) {
      const [head = '', ...rest] = fillIn(prompt, sources.length).split(imageToken)
      if (rest.length < sources.length) {
        throw new CheckpointError(`${template.path}: the chat template leaves out images`)
      }
      const places = rest.map((text, index) => {
        const source = sources[index]
        return `${imageToken.repeat(source ? source.rows * source.columns : 1)}${text}`
      })
      const written = preview ? `${grid(large)}${grid(preview)}` : grid(large)
      return `${head}${places.join('')}${written}${tokens.start}`
    },
  }
}

interface TemplateSource {
  path: string
  text: string
}

/** In the order of the reference: a file of its own, the older JSON around it, the tokenizer's configuration. */
async function readTemplate(
  folder: string,
  config: Record<string, unknown>,
): Promise<TemplateSource> {
  const ownPath = join(folder, 'chat_template.jinja')
  const own = await readTextIfThere(ownPath)
  if (own !== null) return { path: ownPath, text: own }
  const jsonPath = join(folder, 'chat_template.json')
  const isJson = (await readTextIfThere(jsonPath)) !== null
  const path = isJson ? jsonPath : join(folder, 'tokenizer_config.json')
  const text = pickTemplate((isJson ? await readJsonObject(jsonPath) : config)['chat_template'])
  if (text !== null) return { path, text }
  const places = 'chat_template.jinja, chat_template.json or chat_template in tokenizer_config.json'
  throw new CheckpointError(
    isJson ? `${path}: chat_template must be a text` : `${folder}: no chat template in ${places}`,
  )
}

/** A template, or the one named default of several. */
function pickTemplate(value: unknown): string | null {
  if (typeof value === 'string') return value
  if (!Array.isArray(value)) return null
  const named = value.find((entry: unknown) => isRecord(entry) && entry['name'] === 'default')
  return isRecord(named) && typeof named['template'] === 'string' ? named['template'] : null
}

/** The template as a function of the prompt and the number of condition images, which come first; proven on one prompt so that a broken one is found at the start. */
function compile(
  { path, text }: TemplateSource,
  special: Record<string, string | undefined>,
): (prompt: string, imageCount: number) => string {
  const probe = "A sign 'Open'"
  try {
    const template = new Template(text)
    const fillIn = (prompt: string, imageCount: number) => {
      const images = Array.from({ length: imageCount }, () => ({ type: 'image' }))
      const content = [...images, { type: 'text', text: prompt }]
      const messages = [{ role: 'user', content }]
      return template.render({ ...special, messages, add_generation_prompt: false })
    }
    if (fillIn(probe, 0).includes(probe)) return fillIn
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new CheckpointError(`${path}: the chat template cannot be used: ${reason}`, { cause })
  }
  throw new CheckpointError(`${path}: the chat template leaves out the text of the message`)
}

/** A token as a text, also where it is written as an object with properties for the tokenizer. */
function toTokenText(value: unknown): string | undefined {
  const text = isRecord(value) ? value['content'] : value
  return typeof text === 'string' ? text : undefined
}
