import { EngineError } from '../engine-error.ts'
import type { Feeds, HostTensor } from './session.ts'

/** One output of a run. @throws Error (bug) when the graph has no such output */
export function takeTensor(results: Feeds, name: string): HostTensor {
  const tensor = results[name]
  if (!tensor) throw new Error(`the graph gave no ${name}`)
  return tensor
}

/** One float32 output of a run. @throws Error (bug) when it is missing or of another type */
export function takeFloats(results: Feeds, name: string): Float32Array {
  const { data } = takeTensor(results, name)
  if (!(data instanceof Float32Array)) throw new Error(`${name} is not float32`)
  return data
}

/**
 * Broken weights and overflow would otherwise end as a grey picture that is delivered like any other.
 *
 * @throws EngineError `engine_failed` naming the stage when a number is NaN or infinite
 */
export function requireFinite(values: Float32Array, stage: string): void {
  if (!values.every((value) => Number.isFinite(value))) throw notFinite(stage)
}

/** The error of a stage that gave numbers which are not finite. */
export function notFinite(stage: string): EngineError {
  const message = `the model gave numbers that are not finite in stage ${stage}`
  return new EngineError('engine_failed', message)
}
