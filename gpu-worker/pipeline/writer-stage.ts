import { setImmediate as nextTurn } from 'node:timers/promises'
import { toEngineError } from '../engine-error.ts'
import type { Checkpoint } from '../model/checkpoint.ts'
import type { CheckedRequest } from './check-request.ts'
import type { StageOptions } from './glyph-encoder.ts'
import type { PlannedSource } from './plan-request.ts'
import { createCodeReader } from './source-reader.ts'
import type { CodeReader } from './source-reader.ts'
import { canceledIn, pause, roundMs } from './stage.ts'
import type { Stage, StageHooks } from './stage.ts'
import { openVisualTokenWriter, toVisualTokens } from './visual-tokens.ts'
import type { Layout, SourceCodes, VisualTokenWriter, WriterOptions } from './visual-tokens.ts'

export interface WriteInput {
  request: Pick<CheckedRequest, 'prompt' | 'width' | 'height' | 'seed'>
  sources: readonly PlannedSource[]
  /** Where they are known, only the codes of the sources are read. */
  tokens: Int32Array | null
}

export interface Written {
  tokens: Int32Array
  codes: readonly SourceCodes[]
  /** Of what was done for several pictures at once, this one's share. */
  timingsMs: Record<string, number>
}

export type WriterStage = Stage<WriteInput, Written>

/**
 * Opens the first half of the model: what writes the layout of a picture, and reads condition images for it.
 *
 * Up to `batch` layouts are written at once. Calls come in as there is room, in their order, and leave when they are
 * done; between two runs of the graph the event loop turns, and those that were canceled are left out.
 *
 * @throws CheckpointError
 */
export async function openWriterStage(
  checkpoint: Checkpoint,
  options: StageOptions & WriterOptions & { batch: number },
): Promise<WriterStage> {
  const parts: Parts = {
    writer: await openVisualTokenWriter(checkpoint, options),
    reader: createCodeReader(checkpoint, options),
    batch: options.batch,
  }
  const calls = new Set<Call>()
  let working: Promise<void> | null = null
  const work = async () => {
    while (calls.size > 0) await takeTurn(parts, calls)
    working = null
  }
  return {
    run: (input, hooks) =>
      new Promise((resolve, reject) => {
        calls.add({ input, hooks, resolve, reject, layout: null, codes: [], timingsMs: {} })
        working ??= work()
      }),
    async close() {
      await working
      await parts.reader.close()
      await parts.writer.close()
    },
  }
}

interface Parts {
  writer: VisualTokenWriter
  reader: CodeReader
  batch: number
}

interface Call {
  input: WriteInput
  hooks: StageHooks
  resolve: (written: Written) => void
  reject: (error: unknown) => void
  /** Null while it waits for room. */
  layout: Layout | null
  codes: readonly SourceCodes[]
  timingsMs: Record<string, number>
}

/** One call more, if there is room; then one run for all of them. */
async function takeTurn(parts: Parts, calls: Set<Call>): Promise<void> {
  await nextTurn()
  const end = (call: Call, error: unknown) => {
    calls.delete(call)
    call.reject(error)
  }
  for (const call of calls) {
    const { signal } = call.hooks
    if (signal?.aborted) end(call, canceledIn('tokens', signal))
  }
  const active = [...calls].filter(({ layout }) => layout !== null)
  const next = [...calls].find(({ layout }) => layout === null)
  if (next && active.length < parts.batch) {
    try {
      if (await begin(parts, next)) active.push(next)
      else calls.delete(next)
    } catch (error) {
      end(next, error)
    }
  }
  if (active.length === 0) return
  try {
    await advance(parts, active, { end, done: (call) => calls.delete(call) })
  } catch (error) {
    // The run as a whole; which of them is to blame cannot be told.
    for (const call of active) end(call, toEngineError(error))
  }
}

/** @returns false when there is nothing to write, and the call is answered */
async function begin({ writer, reader }: Parts, call: Call): Promise<boolean> {
  const { request, sources, tokens } = call.input
  const startedAt = performance.now()
  if (sources.length > 0) {
    const onPart = (step: number, total: number) =>
      pause(call.hooks, { stage: 'images', step, total })
    call.codes = await reader.read(sources, onPart)
    call.timingsMs['images'] = roundMs(performance.now() - startedAt)
  }
  if (tokens) {
    call.resolve({ tokens, codes: call.codes, timingsMs: call.timingsMs })
    return false
  }
  const layout = writer.plan({ ...request, sources: call.codes })
  await pause(call.hooks, { stage: 'tokens', step: 0, total: layout.total })
  call.layout = layout
  call.timingsMs['tokens'] = 0
  return true
}

async function advance(
  { writer }: Parts,
  active: readonly Call[],
  { end, done }: { end: (call: Call, error: unknown) => void; done: (call: Call) => void },
): Promise<void> {
  const layouts = active.flatMap(({ layout }) => layout ?? [])
  const before = layouts.map(({ written }) => written.length)
  const startedAt = performance.now()
  const failures = await writer.advance(layouts)
  const moved = active.filter(
    ({ layout }, place) => (layout?.written.length ?? 0) > (before[place] ?? 0),
  )
  const shareMs = (performance.now() - startedAt) / moved.length
  for (const call of moved) {
    const { layout, codes, timingsMs } = call
    if (!layout) continue
    timingsMs['tokens'] = roundMs((timingsMs['tokens'] ?? 0) + shareMs)
    const failure = failures.get(layout)
    if (failure) end(call, failure)
    else {
      const step = layout.written.length
      call.hooks.onProgress?.({ stage: 'tokens', step, total: layout.total })
      if (step < layout.total) continue
      done(call)
      call.resolve({ tokens: toVisualTokens(layout).tokens, codes, timingsMs })
    }
  }
}
