import { buildDecoder } from '../model/decoder.ts'
import type { DecoderOptions } from '../model/decoder-head.ts'
import { buildStepDecoder } from '../model/decoder-step.ts'
import { createDecoderBatch } from './decoder-batch.ts'
import type { DecoderBatch } from './decoder-batch.ts'
import { backendOf, openSession } from './session.ts'
import type { SessionOptions } from './session.ts'
import { createStepBatch } from './step-batch.ts'

export interface Decoder {
  /**
   * Starts with no picture.
   *
   * @param rowCount every run of several rows, and of one, is filled up to so many: how products are split over threads
   *   and kernels depends on their shape, and with one shape a row's numbers do not depend on how many there are beside it
   */
  createBatch(rowCount: number): DecoderBatch
  close(): Promise<void>
}

/**
 * Opens the writer of visual tokens in the form that suits the backend: a loop inside one run where everything passes
 * through host memory, one run per token with the cache in place where tensors can stay.
 */
export async function openDecoder(model: DecoderOptions, given: SessionOptions): Promise<Decoder> {
  const { config, compute: dtype } = model
  const options = model.quantised ? { ...given, prepack: true } : given
  if (backendOf(options) === 'node') {
    const session = await openSession(buildDecoder(model), options)
    return {
      createBatch: (rowCount) => createDecoderBatch(session, config, rowCount),
      close: () => session.close(),
    }
  }
  const session = await openSession(buildStepDecoder(model), options)
  const { device } = session
  if (!device) throw new Error('the backend keeps no tensors')
  const { withLogits } = model
  const withMass = model.choice === 'nucleus'
  return {
    createBatch: (rowCount) =>
      createStepBatch(device, config, { ...options, rowCount, dtype, withMass, withLogits }),
    close: () => session.close(),
  }
}
