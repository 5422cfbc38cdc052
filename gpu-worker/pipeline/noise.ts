/**
 * Standard normal noise from a seed, the same bits on every machine and engine version.
 *
 * Number i is the normal quantile of word i of Philox4x32-10 keyed by (seed, stream): a counter-based generator,
 * so a longer picture starts with the numbers of a shorter one. Only additions, products, divisions and square
 * roots are used, which IEEE 754 fixes bit by bit; `Math.log` and `Math.cos` are not fixed.
 *
 * @param seed integer, 0 to 2^32 - 1
 * @param length how many numbers
 * @returns float32
 */
export function createNoise(seed: number, length: number): Float32Array {
  const noise = new Float32Array(length)
  for (let block = 0; block * WORDS < length; block += 1) {
    const words = philox([block, 0, 0, 0], [seed, NOISE_STREAM])
    for (let word = 0; word < WORDS && block * WORDS + word < length; word += 1) {
      const uniform = ((words[word] ?? 0) + 0.5) / 2 ** 32
      noise[block * WORDS + word] = normalQuantile(uniform)
    }
  }
  return noise
}

/** Second key word of the noise stream: "nois" in ASCII, so that no other use of the seed shares it. */
const NOISE_STREAM = 0x6e6f6973
const WORDS = 4

type Words = readonly [number, number, number, number]

/**
 * Philox4x32 with ten rounds: four random 32-bit words for a counter and a key of unsigned 32-bit words.
 *
 * @source Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"
 */
export function philox(counter: Words, key: readonly [number, number]): Words {
  let [c0, c1, c2, c3] = counter
  let [k0, k1] = key
  for (let round = 0; round < 10; round += 1) {
    const high0 = multiplyHigh(0xd2511f53, c0)
    const low0 = Math.imul(0xd2511f53, c0)
    const high1 = multiplyHigh(0xcd9e8d57, c2)
    const low1 = Math.imul(0xcd9e8d57, c2)
    c0 = (high1 ^ c1 ^ k0) >>> 0
    c1 = low1 >>> 0
    c2 = (high0 ^ c3 ^ k1) >>> 0
    c3 = low0 >>> 0
    k0 = (k0 + 0x9e3779b9) >>> 0
    k1 = (k1 + 0xbb67ae85) >>> 0
  }
  return [c0, c1, c2, c3]
}

/** Upper 32 bits of the product of two unsigned 32-bit integers. */
function multiplyHigh(a: number, b: number): number {
  const aHigh = a >>> 16
  const aLow = a & 0xffff
  const bHigh = b >>> 16
  const bLow = b & 0xffff
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  const cross = aLow * bHigh + (middle % 0x10000)
  return aHigh * bHigh + Math.floor(middle / 0x10000) + Math.floor(cross / 0x10000)
}

const CENTRE = {
  top: [
    3.3871328727963665, 133.14166789178438, 1971.5909503065513, 13731.69376550946,
    45921.95393154987, 67265.7709270087, 33430.57558358813, 2509.0809287301227,
  ],
  bottom: [
    1, 42.31333070160091, 687.1870074920579, 5394.196021424751, 21213.794301586597,
    39307.89580009271, 28729.085735721943, 5226.495278852854,
  ],
}
const SHOULDER = {
  top: [
    1.4234371107496835, 4.630337846156546, 5.769497221460691, 3.6478483247632045,
    1.2704582524523684, 0.2417807251774506, 0.022723844989269184, 0.0007745450142783414,
  ],
  bottom: [
    1, 2.053191626637759, 1.6763848301838038, 0.6897673349851, 0.14810397642748008,
    0.015198666563616457, 0.0005475938084995345, 1.0507500716444169e-9,
  ],
}
const TAIL = {
  top: [
    6.657904643501103, 5.463784911164114, 1.7848265399172913, 0.29656057182850487,
    0.026532189526576124, 0.0012426609473880784, 2.7115555687434876e-5, 2.0103343992922881e-7,
  ],
  bottom: [
    1, 0.599832206555888, 0.1369298809227358, 0.014875361290850615, 0.0007868691311456133,
    1.8463183175100548e-5, 1.421511758316446e-7, 2.0442631033899397e-15,
  ],
}

/**
 * The standard normal value below which a share `p` (strictly between 0 and 1) lies.
 *
 * @source Wichura 1988, algorithm AS 241, PPND16
 */
export function normalQuantile(p: number): number {
  const q = p - 0.5
  if (Math.abs(q) <= 0.425) return q * ratio(CENTRE, 0.180625 - q * q)
  const r = Math.sqrt(-naturalLog(q < 0 ? p : 1 - p))
  const magnitude = r <= 5 ? ratio(SHOULDER, r - 1.6) : ratio(TAIL, r - 5)
  return q < 0 ? -magnitude : magnitude
}

function ratio(polynomials: { top: number[]; bottom: number[] }, x: number): number {
  const evaluate = (coefficients: number[]) =>
    coefficients.reduceRight((sum, coefficient) => sum * x + coefficient, 0)
  return evaluate(polynomials.top) / evaluate(polynomials.bottom)
}

/** ln x for 0 < x < 1 by halving to the range [0.7, 1.42) and the series of the inverse hyperbolic tangent. */
function naturalLog(x: number): number {
  let mantissa = x
  let exponent = 0
  while (mantissa < Math.SQRT1_2) {
    mantissa *= 2
    exponent -= 1
  }
  const t = (mantissa - 1) / (mantissa + 1)
  const square = t * t
  let sum = 0
  // |t| is at most 0.172, so the first term left out is below 1e-17 of the sum.
  for (let power = 21; power >= 1; power -= 2) sum = sum * square + 1 / power
  return exponent * Math.LN2 + 2 * t * sum
}
