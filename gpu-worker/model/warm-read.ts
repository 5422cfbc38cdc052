import { open } from 'node:fs/promises'

import type { Checkpoint } from './checkpoint.ts'
import { neededTensors, readAvailableBytes } from './memory.ts'
import type { QuantisedWeights } from './quantised.ts'

/** Large enough for any disk to read on by itself. */
const BLOCK_BYTES = 8 * 2 ** 20

interface Range {
  file: string
  start: number
  end: number
}

/**
 * Reads what a picture out of text needs once, file by file from front to back, so that the system has it in memory when
 * the graphs are opened: the runtime asks for it page by page, which a cold disk answers slowly.
 *
 * Reads nothing when there is no room for all of it: the end would push out the beginning.
 *
 * @param onBytes bytes read so far, and in all
 * @returns bytes read
 */
export async function warmFiles(
  checkpoint: Checkpoint,
  onBytes: (done: number, total: number) => void,
  options: { quantised?: QuantisedWeights; availableBytes?: number } = {},
): Promise<number> {
  const { quantised, availableBytes = readAvailableBytes() } = options
  const ranges = await listRanges(checkpoint, quantised)
  const total = ranges.reduce((sum, { start, end }) => sum + end - start, 0)
  if (total > availableBytes) return 0
  const block = new Uint8Array(BLOCK_BYTES)
  let done = 0
  onBytes(0, total)
  for (const { file, start, end } of ranges) {
    const handle = await open(file, 'r')
    try {
      for (let at = start; at < end;) {
        const length = Math.min(block.length, end - at)
        const { bytesRead } = await handle.read(block, 0, length, at)
        // Whoever opens the graphs says what is wrong with a file that has become shorter.
        if (bytesRead === 0) break
        at += bytesRead
        done += bytesRead
        onBytes(done, total)
      }
    } finally {
      await handle.close()
    }
  }
  return done
}

/** Where the tensors lie, neighbours joined, in the order of the files. */
async function listRanges(checkpoint: Checkpoint, quantised?: QuantisedWeights): Promise<Range[]> {
  const ranges: Range[] = []
  const needed = (await neededTensors(checkpoint, quantised))
    .map(({ ref }) => ref)
    .toSorted((a, b) => (a.file === b.file ? a.offset - b.offset : a.file < b.file ? -1 : 1))
  for (const { file, offset, length } of needed) {
    const last = ranges.at(-1)
    if (last?.file === file && last.end === offset) last.end = offset + length
    else ranges.push({ file, start: offset, end: offset + length })
  }
  return ranges
}
