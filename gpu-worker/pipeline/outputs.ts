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
