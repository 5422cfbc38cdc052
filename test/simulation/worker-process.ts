/** The real worker around an engine that draws nothing: a process that is cheap to start and to kill. */
import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as wait } from 'node:timers/promises'
import type { Engine } from '../../gpu-worker/engine.ts'
import { readWorkerEnv } from '../../gpu-worker/env.ts'
import { attendMachine } from '../../gpu-worker/interruption.ts'
import { WORKER_TIMES, startWorker } from '../../gpu-worker/worker.ts'
import { ENGINE_INFO } from '../support/engine-info.ts'

const engine: Engine = {
  info: ENGINE_INFO,
  pid: undefined,
  async generate({ width = 256, height = 256, seed }, hooks) {
    await wait(30 + Math.random() * 100, undefined, hooks?.signal ? { signal: hooks.signal } : {})
    const bytes = randomBytes(64)
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    const rest = { steps: 1, guidanceScale: 1, tokenCount: 1, timingsMs: { total: 1 } }
    return { bytes, contentType: 'image/png', sha256, width, height, seed, ...rest }
  },
  close: () => Promise.resolve(),
}

const log = (entry: Record<string, unknown>) => console.log(JSON.stringify(entry))
const env = readWorkerEnv()
const worker = await startWorker({
  env,
  engine,
  log,
  times: { ...WORKER_TIMES, restSeconds: [0.2], retrySeconds: [0], pollSeconds: 1 },
})
if (env.IMDS !== '0') {
  // As the worker of the product does, asked more often.
  attendMachine({
    worker,
    group: null,
    log,
    leave: () => process.exit(75),
    endpoint: env.IMDS,
    pollMs: 100,
  })
}
