import { inputsOf } from '../db/input-images.ts'
import type { Attempt } from './run-job.ts'

/** A picture that the job works from is not there any more, or is not what the caller sent; no try can help. */
export class InputGoneError extends Error {
  readonly code = 'input_gone'
}

/**
 * The pictures that a job works from, checked; none for a job from text alone.
 *
 * @throws InputGoneError naming the picture; the store's error when it cannot be read
 */
export async function readInputs({
  job,
  store,
}: Pick<Attempt, 'job' | 'store'>): Promise<Uint8Array[]> {
  const inputs: Uint8Array[] = []
  for (const [idx, image] of inputsOf(job).entries()) {
    const bytes = await store.readInput({ jobId: job.id, idx, image })
    if (bytes === null) throw new InputGoneError(`The input picture ${idx} is not there any more.`)
    inputs.push(bytes)
  }
  return inputs
}

/** For a job that is over. What cannot be removed now goes by its age. */
export async function removeInputs({
  job,
  store,
  log,
}: Pick<Attempt, 'job' | 'store' | 'log'>): Promise<void> {
  try {
    for (const [idx, image] of inputsOf(job).entries()) {
      await store.removeInput({ jobId: job.id, idx, image })
    }
  } catch (error) {
    log({ level: 'warn', event: 'input_left_behind', job: job.id, error: String(error) })
  }
}
