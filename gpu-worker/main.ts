import { openTracing } from '../edge/node/exporting.ts'
import { traceFields } from '../edge/spans.ts'
import { startEngine } from './engine.ts'
import type { Engine } from './engine.ts'
import { readWorkerEnv, slotsOf } from './env.ts'
import type { WorkerEnv } from './env.ts'
import type { LoadProgress } from './pipeline/glm-image.ts'
import { openRemoteEngine } from './remote-engine.ts'
import { drawFirstPicture } from './first-picture.ts'
import { attendMachine } from './interruption.ts'
import { METADATA_ENDPOINT, openMetadata } from './metadata.ts'
import { openScalingGroup } from './scaling-group.ts'
import { DRAIN_MS } from './settings.ts'
import { startWorker } from './worker.ts'
import type { RunningWorker } from './worker.ts'

/** The machine is being taken away; whoever supervises should not start this again. */
const LEFT_EXIT_CODE = 75

/** One JSON line per event on standard output. */
function log(entry: Record<string, unknown>): void {
  console.log(JSON.stringify({ time: new Date().toISOString(), ...traceFields(), ...entry }))
}

/** Between two lines about the reading of weights. */
const LOADING_LOG_MS = 5_000

/** A worker takes no job before its model is open, which may take minutes; meanwhile it says how far it is. */
function createLoadingLog(): (progress: LoadProgress) => void {
  let part = ''
  let saidAt = -Infinity
  return (progress) => {
    const now = performance.now()
    if (progress.part === part && now - saidAt < LOADING_LOG_MS) return
    part = progress.part
    saidAt = now
    log({ level: 'info', event: 'loading', ...progress })
  }
}

function openEngine(env: WorkerEnv): Promise<Engine> {
  const { ENGINE_URL: url, ENGINE_API_KEY: apiKey, ENGINE_MODEL: model } = env
  if (url !== undefined) {
    return openRemoteEngine({
      url,
      slots: slotsOf(env),
      ...(apiKey === undefined ? {} : { apiKey }),
      ...(model === undefined ? {} : { model }),
    })
  }
  return startEngine({
    modelDir: env.MODEL_DIR ?? '',
    provider: env.PROVIDER,
    slots: slotsOf(env),
    stepCache: env.STEP_CACHE,
    firstBlockCache: env.FIRST_BLOCK_CACHE,
    onLoading: createLoadingLog(),
    ...(env.THREADS === undefined ? {} : { threads: env.THREADS }),
    ...(env.AR_WEIGHTS === 'stored' ? {} : { arWeights: env.AR_WEIGHTS }),
    ...(env.ENGINE_BACKEND === undefined ? {} : { backend: env.ENGINE_BACKEND }),
  })
}

/** Tells the scaling group that this machine works, and hears of its end. */
async function attend(
  env: WorkerEnv,
  worker: RunningWorker,
  leave: (code: number) => void,
): Promise<void> {
  const endpoint = env.IMDS === '1' ? METADATA_ENDPOINT : env.IMDS
  const { GROUP_NAME: groupName, AWS_REGION: region, AUTO_SCALING_ENDPOINT: groupEndpoint } = env
  const instanceId = groupName && (await openMetadata(endpoint).read('instance-id'))
  if (groupName && !instanceId) log({ level: 'error', event: 'instance_unknown', group: groupName })
  const group =
    groupName && instanceId
      ? openScalingGroup({
          groupName,
          instanceId,
          region,
          log,
          ...(groupEndpoint === undefined ? {} : { endpoint: groupEndpoint }),
        })
      : null
  attendMachine({ worker, group, log, leave: () => leave(LEFT_EXIT_CODE), endpoint })
  await group?.completeLaunch()
}

try {
  const env = readWorkerEnv()
  const tracing = await openTracing(env, { serviceName: 'glyphpress-worker', log })
  const exit = async (code: number) => {
    await tracing?.stop()
    process.exit(code)
  }
  const startedAt = performance.now()
  const engine = await openEngine(env)
  const loadSeconds = (performance.now() - startedAt) / 1_000
  // What another server's picture costs, and shows, is its own affair.
  if (env.ENGINE_URL === undefined) {
    const ms = Math.round(await drawFirstPicture(engine, env.PROVIDER))
    log({ level: 'info', event: 'first_picture', ms })
  }
  const worker = await startWorker({ env, engine, log, loadSeconds })
  const leave = (code: number) => {
    // The lease brings the job back should giving it back hang.
    setTimeout(() => process.exit(1), DRAIN_MS).unref()
    void worker.stop().then(() => exit(code))
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      log({ level: 'info', event: 'stopping', signal })
      leave(0)
    })
  }
  if (env.IMDS !== '0') await attend(env, worker, (code) => void exit(code))
  void worker.broken.then(() => {
    log({ level: 'error', event: 'engine_broken' })
    leave(1)
  })
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exit(1)
}
