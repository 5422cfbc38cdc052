import { philox } from './noise.ts'

/** Second key word of the sampling stream: "toks" in ASCII, so that the noise never shares it. */
const SAMPLING_STREAM = 0x746f6b73
const WORDS = 4

/**
 * Uniform numbers in [0, 1) that decide the visual tokens of a picture, one per token.
 *
 * A token's number depends on the seed and its place alone, so the chunks in which tokens are written do
 * not matter. 24 bits each: exact in float32, and never rounded up to 1.
 *
 * @param seed integer, 0 to 2^32 - 1
 * @param length how many numbers
 * @returns float32
 */
export function createUniforms(seed: number, length: number): Float32Array {
  const uniforms = new Float32Array(length)
  for (let block = 0; block * WORDS < length; block += 1) {
    const words = philox([block, 0, 0, 0], [seed, SAMPLING_STREAM])
    for (let word = 0; word < WORDS && block * WORDS + word < length; word += 1) {
      uniforms[block * WORDS + word] = ((words[word] ?? 0) >>> 8) / 2 ** 24
    }
  }
  return uniforms
}
