import { describe, expect, test } from 'vitest'

import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import type { DecoderOptions } from '../../../gpu-worker/model/decoder-head.ts'
import { createRotaryTable } from '../../../gpu-worker/model/rope.ts'
import {
  buildConditions,
  buildModulation,
} from '../../../gpu-worker/model/transformer-conditions.ts'
import { buildDenoiser } from '../../../gpu-worker/model/transformer.ts'
import type { ComputeType } from '../../../gpu-worker/onnx/graph.ts'
import { startDecoderRun } from '../../../gpu-worker/pipeline/decoder-run.ts'
import { planPositions } from '../../../gpu-worker/pipeline/positions.ts'
import { openDecoder } from '../../../gpu-worker/pipeline/decoder-session.ts'
import { BACKENDS, openSession } from '../../../gpu-worker/pipeline/session.ts'
import type { Backend } from '../../../gpu-worker/pipeline/session.ts'
import { openVisualTokenWriter } from '../../../gpu-worker/pipeline/visual-tokens.ts'

const checkpoint = await openCheckpoint('test/fixtures/golden/checkpoint')
const config = checkpoint.autoregressive
const GRIDS = { large: { rows: 4, columns: 4 }, preview: { rows: 2, columns: 2 } }

async function describeForced(compute: ComputeType): Promise<DecoderOptions> {
  return {
    config,
    tensors: await checkpoint.tensors('vision_language_encoder'),
    compute,
    choice: 'forced',
    sampling: { ...checkpoint.generation, codebookSize: config.codebookSize },
    withLogits: true,
  }
}

/** Logits of a prompt and of twenty forced tokens in two chunks, so that the cache passes the border. */
async function logitsOf(compute: ComputeType, backend: Backend): Promise<number[]> {
  const decoder = await openDecoder(await describeForced(compute), { threads: 1, backend })
  const ids = Array.from({ length: 20 }, (_, index) => 300 + 7 * index)
  const rotary = createRotaryTable(planPositions(ids.length, GRIDS), config.rope)
  const forced = BigInt64Array.from({ length: 20 }, (_, index) => BigInt((5 * index) % 128))
  const run = startDecoderRun(decoder, { ids, rotary, draws: { forced } })
  const chunks = [await run.write(8), await run.write(12)]
  await decoder.close()
  return chunks.flatMap(({ promptLogits, stepLogits }) => [
    ...(promptLogits!.data as Float32Array),
    ...(stepLogits!.data as Float32Array),
  ])
}

test.each(BACKENDS)(
  'in half precision the logits stay within 0.05 of float32, across chunks: %s',
  async (backend) => {
    const exact = await logitsOf('float32', backend)
    const half = await logitsOf('float16', backend)
    const spread = Math.sqrt(exact.reduce((sum, value) => sum + value ** 2, 0) / exact.length)
    expect(spread).toBeGreaterThan(1)
    const differences = exact.map((value, index) => Math.abs(value - half[index]!))
    expect(Math.max(...differences)).toBeLessThan(0.05)
    expect(Math.max(...differences)).toBeGreaterThan(0)
  },
)

describe('the graphs for a card are well typed in bfloat16: a processor only lacks kernels', () => {
  // Types are checked before kernels are looked up.
  const missingKernel = /Could not find an implementation for Gemm/

  test.each(BACKENDS)('tokens: %s', async (backend) => {
    const forced = await describeForced('bfloat16')
    await expect(openDecoder(forced, { backend })).rejects.toThrow(missingKernel)
    const opening = openVisualTokenWriter(checkpoint, { compute: 'bfloat16', backend })
    await expect(opening).rejects.toThrow(missingKernel)
  })

  test.each([
    ['conditions', buildConditions],
    ['modulation', buildModulation],
    ['denoiser', buildDenoiser],
  ])('%s', async (_name, build) => {
    const tensors = await checkpoint.tensors('transformer')
    const graph = build({ config: checkpoint.transformer, tensors, compute: 'bfloat16' })
    await expect(openSession(graph)).rejects.toThrow(missingKernel)
  })
})
