import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { countLiveHandles } from '../../../gpu-worker/onnxruntime/c-handles.ts'
import { openPipeline } from '../../../gpu-worker/pipeline/glm-image.ts'
import { BACKENDS } from '../../../gpu-worker/pipeline/session.ts'
import { drawPicture } from '../../support/pictures.ts'

const SERVED = fileURLToPath(new URL('../../fixtures/checkpoint', import.meta.url))

test('the same seed gives the same bytes on both backends, edits too, and nothing of the runtime is left', async () => {
  const plain = { prompt: "A sign 'OPEN'", seed: 3, steps: 4, format: 'png' } as const
  const images = [await drawPicture(1, { width: 96, height: 64 })]
  const drawn: string[][] = []
  for (const backend of BACKENDS) {
    const pipeline = await openPipeline(SERVED, { threads: 2, batch: 4, backend })
    const made = [
      await pipeline.generate({ ...plain, width: 96, height: 64 }, {}),
      await pipeline.generate({ ...plain, width: 256, height: 128, seed: 4 }, {}),
      await pipeline.generate({ ...plain, images }, {}),
    ]
    drawn.push(made.map(({ sha256 }) => sha256))
    await pipeline.close()
  }
  expect(drawn[1]).toEqual(drawn[0])
  expect(new Set(drawn[0]).size).toBe(3)
  expect(countLiveHandles()).toBe(0)
})
