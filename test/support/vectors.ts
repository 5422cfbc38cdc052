import { join } from 'node:path'

import { writeSafetensors } from './safetensors.ts'

/**
 * Numbers that anyone can make again: element i (from 1) of stream h is
 * 2 * frac(sin(i * 12.9898 + h * 78.233) * 43758.5453) - 1, in double precision, in [-1, 1).
 */
export function createNumbers(count: number, stream: number): Float32Array {
  return Float32Array.from({ length: count }, (_, index) => numberAt(index + 1, stream))
}

function numberAt(index: number, stream: number): number {
  const value = Math.sin(index * 12.9898 + stream * 78.233) * 43758.5453
  return 2 * (value - Math.floor(value)) - 1
}

/** Name and shape of every tensor. */
export type Shapes = Readonly<Record<string, readonly number[]>>

/** Writes float32 weights whose values follow from their names: scales of norms near 1, all else within 0.3. */
export async function writeVectorWeights(dir: string, shapes: Shapes): Promise<void> {
  const tensors = Object.entries(shapes).map(([name, shape]) => {
    const count = shape.reduce((product, size) => product * size, 1)
    const stream = Array.from(name).reduce((sum, letter) => sum + letter.charCodeAt(0), 0) % 97
    const isScale = shape.length === 1 && name.endsWith('.weight')
    const values = Float32Array.from({ length: count }, (_, index) => {
      const number = numberAt(index + 1, stream)
      return isScale ? 1 + 0.1 * number : 0.3 * number
    })
    return { name, dtype: 'F32' as const, shape, bytes: new Uint8Array(values.buffer) }
  })
  await writeSafetensors(join(dir, 'model.safetensors'), tensors)
}

/** Shapes of linear layers given as [out, in], with their biases. */
export function linearShapes(layers: Readonly<Record<string, readonly [number, number]>>): Shapes {
  return Object.fromEntries(
    Object.entries(layers).flatMap(([name, [outSize, inSize]]) => [
      [`${name}.weight`, [outSize, inSize]],
      [`${name}.bias`, [outSize]],
    ]),
  )
}

/** What is recorded of a tensor: its first and last numbers, sum and sum of absolute values. */
export interface Vector {
  first: readonly number[]
  last?: readonly number[]
  sum: number
  absoluteSum?: number
}

/** Largest difference from the record, each relative to the number's size where that is above 1. */
export function differenceFrom(actual: ArrayLike<number>, expected: Vector): number {
  const values = Array.from(actual)
  const sumOf = (numbers: number[]) => numbers.reduce((sum, value) => sum + value, 0)
  const absoluteSum = sumOf(values.map(Math.abs))
  const last = expected.last ?? []
  const relative = (value: number, wanted: number, size = wanted) =>
    Math.abs(value - wanted) / Math.max(1, Math.abs(size))
  return Math.max(
    ...expected.first.map((wanted, index) => relative(values[index] ?? NaN, wanted)),
    ...last.map((wanted, index) => relative(values.at(index - last.length) ?? NaN, wanted)),
    // A sum cancels, so its rounding follows the size of its terms.
    relative(sumOf(values), expected.sum, absoluteSum),
    relative(absoluteSum, expected.absoluteSum ?? absoluteSum),
  )
}
