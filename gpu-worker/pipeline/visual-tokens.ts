import { join } from 'node:path'
import type { EngineError } from '../engine-error.ts'
import type { ChunkResult, DecoderBatch } from './decoder-batch.ts'
import { createRow } from './decoder-rows.ts'
import type { DecoderRow } from './decoder-rows.ts'
import { openDecoder } from './decoder-session.ts'
import type { StageOptions } from './glyph-encoder.ts'
import { notFinite } from './outputs.ts'
import { planPositions } from './positions.ts'
import type { PlacedGrid } from './positions.ts'
import { openPromptRenderer, planGrids } from './prompt.ts'
import type { Grid, GridPlan, PromptRenderer } from './prompt.ts'
import { openTokenizer } from './tokenizer.ts'
import type { TextTokenizer } from './tokenizer.ts'
import { createUniforms } from './uniforms.ts'
import type { Checkpoint } from '../model/checkpoint.ts'
import type { AutoregressiveConfig } from '../model/config.ts'
import { createRotaryTable } from '../model/rope.ts'
import { openQuantised } from '../model/quantised.ts'
import { CheckpointError } from '../model/checkpoint-error.ts'

export interface VisualTokens {
  /** Visual codes of the large grid, row-major, each in [0, codebook size). */
  readonly tokens: Int32Array
  /** The same codes with every cell repeated 2 x 2: one per denoiser patch, row-major. */
  readonly priorTokenIds: Int32Array
  /** All tokens in the order of writing: those of the preview first, where there is one. */
  readonly written: Int32Array
}

/** A condition image as the writer reads it: one visual code per cell, row-major. */
export interface SourceCodes {
  readonly grid: Grid
  readonly codes: Int32Array
}

export interface TokenRequest {
  prompt: string
  width: number
  height: number
  seed: number
  /** Any makes it an edit, whose layout is written without a preview. */
  sources?: readonly SourceCodes[]
}

/** A layout that is being written. */
export interface Layout {
  readonly grids: GridPlan
  readonly row: DecoderRow
  readonly total: number
  /** So far, those of the preview first. */
  readonly written: number[]
}

export interface VisualTokenWriter {
  /** Reads a request; nothing is run. */
  plan(request: TokenRequest): Layout
  /**
   * Goes on with layouts that are not finished: reads the prompt of the first new one, or writes the next tokens of all,
   * a chunk at most. One that was there last time and is not now has left.
   *
   * @returns what ended single ones: the others go on
   */
  advance(layouts: readonly Layout[]): Promise<ReadonlyMap<Layout, EngineError>>
  /**
   * Writes the layout of one picture. Same prompt, images, size and seed, same machine and batch: same tokens, whoever
   * else is written beside it.
   *
   * @param hooks.onChunk called at the start and after every chunk with the number of tokens written and their total; the
   *   next chunk starts when it resolves, and a throw from it ends the writing
   * @throws EngineError `engine_failed` when a token was drawn from numbers that are not finite
   */
  write(
    request: TokenRequest,
    hooks: { onChunk: (written: number, total: number) => Promise<void> },
  ): Promise<VisualTokens>
  close(): Promise<void>
}

/**
 * Tokens per run of the graph: long enough that carrying the cache through host memory between runs costs
 * little per token, short enough that a cancel is seen within a fraction of a second on a GPU.
 */
const CHUNK_TOKENS = 32

export interface WriterOptions {
  /**
   * `int8` takes the matrices of the layers from the file that `quantiseWeights` made; absent: as they are stored.
   *
   * On the reference writer, whose weights are random, blocks of 32, 64 and 128 move the logits by 4.2, 4.5 and 5.4 percent of
   * their spread (root mean square) and keep 88, 86 and 87 of 95 likeliest tokens: a drawn layout is another one after some
   * tokens. What it does to pictures of trained weights is not known. Activations are rounded to 8 bits too.
   */
  arWeights?: 'int8'
  chunkTokens?: number
  /** Layouts that are written at once. */
  batch?: number
}

/**
 * Opens the autoregressive half of the model.
 *
 * @throws CheckpointError when the checkpoint lacks a tensor or a processor file
 */
export async function openVisualTokenWriter(
  checkpoint: Checkpoint,
  options: StageOptions & WriterOptions,
): Promise<VisualTokenWriter> {
  const { autoregressive: config, generation } = checkpoint
  const { chunkTokens = CHUNK_TOKENS, batch: rowCount = 1 } = options
  const tokenizer = await openTokenizer(checkpoint.dir)
  const renderer = await openPromptRenderer(checkpoint.dir)
  checkTokens(checkpoint, renderer, tokenizer)
  const model = {
    config,
    tensors: await checkpoint.tensors('vision_language_encoder'),
    compute: options.compute,
    choice: 'nucleus',
    sampling: { ...generation, codebookSize: config.codebookSize },
    withLogits: false,
    ...(options.arWeights === 'int8' && { quantised: await openQuantised(checkpoint) }),
  } as const
  const decoder = await openDecoder(model, options)
  const batch = decoder.createBatch(rowCount)
  const writer: VisualTokenWriter = {
    plan({ prompt, width, height, seed, sources = [] }) {
      const grids = planWrittenGrids({ width, height, cellPixels: checkpoint.cellPixels }, sources)
      const { ids, places } = toPrompt({ renderer, tokenizer }, { prompt, grids, sources })
      const total = countCells(grids.preview) + countCells(grids.large)
      const rotary = createRotaryTable(planPositions(ids.length, grids, places), config.rope)
      const row = createRow({ ids, rotary, draws: { uniforms: createUniforms(seed, total) } })
      return { grids, row, total, written: [] }
    },
    advance: (layouts) => advance(batch, layouts, chunkTokens),
    async write(request, hooks) {
      const layout = writer.plan(request)
      await hooks.onChunk(0, layout.total)
      while (layout.written.length < layout.total) {
        const failure = (await writer.advance([layout])).get(layout)
        if (failure) throw failure
        await hooks.onChunk(layout.written.length, layout.total)
      }
      return toVisualTokens(layout)
    },
    close: () => decoder.close(),
  }
  return writer
}

async function advance(
  batch: DecoderBatch,
  layouts: readonly Layout[],
  chunkTokens: number,
): Promise<ReadonlyMap<Layout, EngineError>> {
  const unread = layouts.find(({ row }) => row.fed === 0)
  const rows = layouts.map(({ row }) => row)
  if (unread) return note([unread], await batch.read(unread.row, 1, rows))
  const count = Math.min(chunkTokens, ...layouts.map((own) => own.total - own.written.length))
  return note(layouts, await batch.write(rows, count))
}

function note(layouts: readonly Layout[], { rows }: ChunkResult): ReadonlyMap<Layout, EngineError> {
  const failures = new Map<Layout, EngineError>()
  for (const [place, layout] of layouts.entries()) {
    const { tokens, isFinite } = rows[place] ?? { tokens: [], isFinite: false }
    layout.written.push(...tokens.map(Number))
    if (!isFinite) failures.set(layout, notFinite('tokens'))
  }
  return failures
}

/** What a finished layout says. */
export function toVisualTokens({ grids, written }: Layout): VisualTokens {
  const all = Int32Array.from(written)
  const tokens = all.slice(countCells(grids.preview))
  return { tokens, priorTokenIds: upsample(tokens, grids.large), written: all }
}

/** The grids that are written: an edit has its layout from its sources and needs no preview. */
export function planWrittenGrids(
  size: { width: number; height: number; cellPixels: number },
  sources: readonly unknown[],
): GridPlan {
  const grids = planGrids(size)
  return sources.length > 0 ? { ...grids, preview: null } : grids
}

/** Whether these can be the tokens of a grid. */
export function fitTokens(
  tokens: Int32Array,
  grid: Grid,
  { codebookSize }: Pick<AutoregressiveConfig, 'codebookSize'>,
): boolean {
  const isCode = (token: number) => token >= 0 && token < codebookSize
  return tokens.length === countCells(grid) && tokens.every(isCode)
}

/** Cells of a grid; none of no grid. */
export function countCells(grid: Grid | null): number {
  return grid ? grid.rows * grid.columns : 0
}

/**
 * The ids of a prompt, with the codes of the condition images in their places.
 *
 * @throws CheckpointError when what stands for an image is no token
 */
export function toPrompt(
  { renderer, tokenizer }: { renderer: PromptRenderer; tokenizer: TextTokenizer },
  input: { prompt: string; grids: GridPlan; sources: readonly SourceCodes[] },
): { text: string; ids: number[]; places: PlacedGrid[] } {
  const { prompt, grids, sources } = input
  const { imageToken } = renderer
  const gridsOfSources = sources.map(({ grid }) => grid)
  const text = renderer.render(prompt, grids, gridsOfSources)
  const ids = tokenizer.encode(text)
  const [imageId = NaN, ...others] = tokenizer.encode(imageToken)
  if (sources.length > 0 && others.length > 0) {
    throw new CheckpointError(`processor/tokenizer.json: ${imageToken} must be one token`)
  }
  let from = 0
  const places = sources.map(({ grid, codes }) => {
    const start = ids.indexOf(imageId, from)
    if (start < 0) throw new Error(`the prompt has no ${imageToken} for a source`)
    ids.splice(start, codes.length, ...codes)
    from = start + codes.length
    return { start, ...grid }
  })
  return { text, ids, places }
}

/** A tokenizer of another model would write prompts that the weights never saw. */
function checkTokens(
  { dir, autoregressive }: Checkpoint,
  { tokens }: PromptRenderer,
  tokenizer: TextTokenizer,
): void {
  const path = join(dir, 'processor', 'tokenizer.json')
  for (const token of Object.values(tokens)) {
    const { length } = tokenizer.encode(token)
    if (length === 1) continue
    throw new CheckpointError(`${path}: ${token} must be one token, not ${length}`)
  }
  const [id] = tokenizer.encode(tokens.start)
  if (id === autoregressive.imageStartTokenId) return
  throw new CheckpointError(
    `${path}: ${tokens.start} must have the image_start_token_id of ` +
      `vision_language_encoder/config.json: ${autoregressive.imageStartTokenId}, not ${id}`,
  )
}

/** Repeats every cell of a row-major grid 2 x 2. */
export function upsample(tokens: Int32Array, grid: Grid): Int32Array {
  const columns = 2 * grid.columns
  const out = new Int32Array(2 * grid.rows * columns)
  for (let index = 0; index < out.length; index++) {
    const row = Math.floor(index / columns) >> 1
    const column = (index % columns) >> 1
    out[index] = tokens[row * grid.columns + column] ?? 0
  }
  return out
}
