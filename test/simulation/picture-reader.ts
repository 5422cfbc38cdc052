import { createHash } from 'node:crypto'
import type { TextReader } from '../../gpu-worker/ocr/reader.ts'
import type { FaultLedger } from './fault-ledger.ts'
import type { Random } from './random.ts'

/** What every checked order wants to see in its pictures. */
export const EXPECTED_TEXT = 'OPEN'
const MISS_RATE = 0.3
const FAILURE_RATE = 0.08

/**
 * Reads pictures that have no text, by lot. `readings` gets whether a picture was read with its text, by checksum: who
 * was promised a refund pays for those alone.
 */
export function createPictureReader(input: {
  readings: Map<string, boolean>
  random: Random
  ledger: FaultLedger
  isQuiet: () => boolean
}): TextReader {
  const { readings, random, ledger, isQuiet } = input
  return {
    engine: 'simulated',
    version: '1',
    read(file) {
      const sha256 = createHash('sha256').update(file).digest('hex')
      readings.set(sha256, false)
      if (!isQuiet() && random.chance(FAILURE_RATE)) {
        ledger.note('text reader', 'hung')
        return Promise.resolve({ ok: false, error: 'ocr_timeout', durationMs: 1 })
      }
      const isMiss = random.chance(MISS_RATE)
      readings.set(sha256, !isMiss)
      const text = isMiss ? 'OPFN' : EXPECTED_TEXT
      return Promise.resolve({ ok: true, lines: [{ text, confidence: 1 }], durationMs: 1 })
    },
    close() {},
  }
}
