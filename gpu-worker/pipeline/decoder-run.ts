import { createRow } from './decoder-rows.ts'
import type { RowInput } from './decoder-rows.ts'
import type { Decoder } from './decoder-session.ts'
import type { HostTensor } from './session.ts'

export interface DecoderRun {
  /** Writes the next `count` tokens; the first call also reads the prompt. */
  write(count: number): Promise<{
    tokens: bigint[]
    /** Present when the graph was built with logits. */
    promptLogits: HostTensor | null
    stepLogits: HostTensor | null
  }>
}

/** Follows one picture through the decoder, as a batch of one. */
export function startDecoderRun(decoder: Decoder, input: RowInput): DecoderRun {
  const batch = decoder.createBatch(1)
  const row = createRow(input)
  return {
    async write(count) {
      const isNew = row.written === 0
      const chunk = await (isNew ? batch.read(row, count, []) : batch.write([row], count))
      const { promptLogits, stepLogits } = chunk
      return { tokens: chunk.rows[0]?.tokens ?? [], promptLogits, stepLogits }
    },
  }
}
