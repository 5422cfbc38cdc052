import { execFile } from 'node:child_process'
import { promisify } from 'node:util'

import type { Checkpoint, TensorFolder } from './checkpoint.ts'
import { CheckpointError } from './checkpoint-error.ts'
import { neededTensors } from './memory.ts'
import type { QuantisedWeights } from './quantised.ts'

/** These run in float32 on a card too; all others in the type of the file. */
const IN_FLOAT32: ReadonlySet<TensorFolder> = new Set(['vae', 'text_encoder'])
const CALL_TIMEOUT_MS = 30_000
const MIB = 2 ** 20

/**
 * Refuses a checkpoint whose weights have no room on the card, before any is copied there: the runtime would say so after
 * minutes, and not how much is missing.
 *
 * @param options.readFree free bytes of the card, null where nothing tells
 * @throws CheckpointError stating both sizes
 */
export async function requireCardMemory(
  checkpoint: Checkpoint,
  options: { quantised?: QuantisedWeights; readFree?: () => Promise<number | null> } = {},
): Promise<void> {
  const { quantised, readFree = readFreeOfCard } = options
  const needed = await cardBytes(checkpoint, quantised)
  const free = await readFree()
  if (free === null || needed <= free) return
  const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(1)
  throw new CheckpointError(
    `${checkpoint.dir}: needs ${gigabytes(needed)} GB of the card's memory for its weights, ${gigabytes(free)} GB free`,
  )
}

/** What a picture out of text needs there; the work itself comes on top. */
export async function cardBytes(
  checkpoint: Checkpoint,
  quantised?: QuantisedWeights,
): Promise<number> {
  let bytes = 0
  for (const { folder, ref } of await neededTensors(checkpoint, quantised)) {
    const isWidened = IN_FLOAT32.has(folder) && (ref.dtype === 'BF16' || ref.dtype === 'F16')
    bytes += isWidened ? 2 * ref.length : ref.length
  }
  return bytes
}

/** Of the first card, which is the one that the runtime takes. */
async function readFreeOfCard(): Promise<number | null> {
  const flags = ['--query-gpu=memory.free', '--format=csv,noheader,nounits', '--id=0']
  try {
    const { stdout } = await promisify(execFile)('nvidia-smi', flags, { timeout: CALL_TIMEOUT_MS })
    const free = Number.parseInt(stdout, 10)
    return Number.isNaN(free) ? null : free * MIB
  } catch {
    return null
  }
}
