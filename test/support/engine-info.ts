import type { Engine } from '../../gpu-worker/engine.ts'

/** What an engine that draws nothing says of itself. */
export const ENGINE_INFO: Engine['info'] = {
  model: 'glm-image',
  notice: null,
  size: {
    default: '256x256',
    recommended: ['256x256'],
    minSide: 64,
    maxSide: 2048,
    multipleOf: 32,
    maxPixels: 4_194_304,
  },
  images: null,
  steps: 1,
  guidanceScale: 1,
  weightsHash: 'none',
  provider: 'cpu',
}
