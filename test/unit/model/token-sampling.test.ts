import { expect, test } from 'vitest'
import { sampleNucleus } from '../../../gpu-worker/model/token-sampling.ts'
import type { NucleusOptions } from '../../../gpu-worker/model/token-sampling.ts'
import { createGraph } from '../../../gpu-worker/onnx/graph.ts'
import { openSession } from '../../../gpu-worker/pipeline/session.ts'
import { createUniforms } from '../../../gpu-worker/pipeline/uniforms.ts'
import { createNumbers } from '../../support/vectors.ts'

const VOCABULARY = 24

async function openSampler(options: NucleusOptions) {
  const g = createGraph({ name: 'sampler', compute: 'float32' })
  const logits = g.input('logits', 'float32', [1, 'vocabulary'])
  const uniform = g.input('uniform', 'float32', [1, 1])
  const { token, mass } = sampleNucleus(g, logits, uniform, options)
  g.output(token, 'token', 'int64', [1, 1])
  g.output(mass, 'mass', 'float32', [1, 1])
  const session = await openSession(g.toBytes(), { threads: 1 })
  return {
    close: () => session.close(),
    async sample(values: Float32Array, draw: number): Promise<number> {
      const { token } = await session.run({
        logits: { data: values, shape: [1, values.length] },
        uniform: { data: Float32Array.of(draw), shape: [1, 1] },
      })
      return Number(token?.data[0])
    },
  }
}

/** The rule again, in double precision: what is kept, with probabilities that sum to 1. */
function keptTokens(logits: Float32Array, options: NucleusOptions): [number, number][] {
  const scaled = Array.from(logits.slice(0, options.codebookSize), (x) => x / options.temperature)
  const largest = Math.max(...scaled)
  const order = scaled.map((x, id) => [id, Math.exp(x - largest)] as [number, number])
  order.sort((a, b) => b[1] - a[1])
  const top = order.slice(0, options.topK > 0 ? options.topK : undefined)
  const total = top.reduce((sum, [, weight]) => sum + weight, 0)
  let before = 0
  const kept = top.filter(([, weight]) => {
    const isKept = before < options.topP
    before += weight / total
    return isKept
  })
  const mass = kept.reduce((sum, [, weight]) => sum + weight, 0)
  return kept.map(([id, weight]) => [id, weight / mass])
}

test('the token that crosses top-p is kept: three of six in the published example', async () => {
  const options = { temperature: 0.9, topP: 0.75, topK: 0, codebookSize: 6 }
  const sampler = await openSampler(options)
  const logits = Float32Array.of(2, 1.5, 1, 0.5, 0, -1)
  expect(keptTokens(logits, options).map(([, share]) => share.toFixed(4))).toEqual([
    '0.5255',
    '0.3015',
    '0.1730',
  ])
  const draws = [0, 0.525, 0.526, 0.826, 0.828, 0.999999]
  const tokens = await Promise.all(draws.map((draw) => sampler.sample(logits, draw)))
  expect(tokens).toEqual([0, 0, 1, 1, 2, 2])
  await sampler.close()
})

test.each([
  { temperature: 0.9, topP: 0.75, topK: VOCABULARY, codebookSize: 20 },
  { temperature: 0.5, topP: 0.95, topK: 5, codebookSize: VOCABULARY },
  { temperature: 2, topP: 1, topK: 0, codebookSize: 20 },
])('sampling follows the rule for every draw: %o', async (options) => {
  const sampler = await openSampler(options)
  const logits = createNumbers(VOCABULARY, 11).map((x) => 3 * x)
  // Ids outside the codebook are the likeliest here and must still never come.
  logits.fill(50, options.codebookSize)
  const kept = keptTokens(logits, options)
  for (const draw of createUniforms(5, 200)) {
    let sum = 0
    const expected = kept.find(([, share]) => (sum += share) > draw)?.[0]
    const isOnEdge = Math.abs(sum - draw) < 1e-6
    if (!isOnEdge) expect(await sampler.sample(logits, draw), `draw ${draw}`).toBe(expected)
  }
  await sampler.close()
})

test('one overwhelming token is always taken, whatever the draw', async () => {
  const sampler = await openSampler({ temperature: 0.9, topP: 0.75, topK: 0, codebookSize: 20 })
  const logits = new Float32Array(VOCABULARY)
  logits[7] = 80
  for (const draw of [0, 0.5, 1 - 2 ** -24]) expect(await sampler.sample(logits, draw)).toBe(7)
  await sampler.close()
})
