/** The real worker with the times of the product, around an engine that draws for as long as it is told and says when it begins. */
import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as wait } from 'node:timers/promises'
import type { Engine } from '../../gpu-worker/engine.ts'
import { readWorkerEnv } from '../../gpu-worker/env.ts'
import { startWorker } from '../../gpu-worker/worker.ts'
import { ENGINE_INFO } from '../support/engine-info.ts'

const DRAW_MS = Number(process.env.DRAW_MS)
const log = (entry: Record<string, unknown>) => console.log(JSON.stringify(entry))

const engine: Engine = {
  info: ENGINE_INFO,
  pid: undefined,
  async generate({ width = 256, height = 256, seed }, hooks) {
    log({ event: 'drawing', atMs: Date.now() })
    // Each report renews the job's lease, which so ends later than that of its message.
    for (let step = 1; step <= DRAW_MS / 1_000; step++) {
      await wait(1_000, undefined, hooks?.signal ? { signal: hooks.signal } : {})
      hooks?.onProgress?.({ stage: 'denoise', step, total: DRAW_MS / 1_000 })
    }
    const bytes = randomBytes(64)
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    const rest = { steps: 1, guidanceScale: 1, tokenCount: 1, timingsMs: { total: DRAW_MS } }
    return { bytes, contentType: 'image/png', sha256, width, height, seed, ...rest }
  },
  close: () => Promise.resolve(),
}
await startWorker({ env: readWorkerEnv(), engine, log })
