import type { ChildProcess } from 'node:child_process'
import { createServer } from 'node:net'
import { resolve } from 'node:path'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { deriveSecret } from '../../db/derive.ts'
import { migrateDatabase } from '../../db/migrate-cli.ts'
import { findModel } from '../../db/models.ts'
import { restageDispatch } from '../../db/outbox.ts'
import { endLeases } from '../../db/restage-job.ts'
import { childEnv, readLocalEnv } from './env.ts'
import { createLocalKey, ensureFirstKey } from './first-key.ts'
import { assertCheckpoint } from './model-dir.ts'
import { HELP, readOptions } from './options.ts'
import type { StartOptions } from './options.ts'
import { findFreePort, startPostgres } from './postgres.ts'
import { startPart } from './processes.ts'
import type { Part } from './processes.ts'
import { startQueue } from './queue.ts'
import { createShutdown } from './shutdown.ts'
import type { Shutdown } from './shutdown.ts'
import { openState } from './state.ts'
import type { LocalState } from './state.ts'
import { welcome } from './welcome.ts'

/** The worker hands back its job in eight seconds; the gateway lets calls end for five. */
const WORKER_STOP_MS = 8_500
const GATEWAY_STOP_MS = 6_000
/** One Ctrl-C may arrive twice: from the terminal, and passed on by npm. */
const SAME_KEY_MS = 1_000
const MAX_RESTAGED = 100_000

const say = (text: string) => console.log(text)

/** One start, from the first part to the last. */
interface Run {
  readonly shutdown: Shutdown
  /** Stops everything because of something that cannot be mended here. */
  readonly fail: (reason: string) => void
}

async function main(): Promise<void> {
  const env = readLocalEnv()
  const options = readOptions(process.argv.slice(2), env)
  if (!options) {
    console.log(HELP)
    return
  }
  const shutdown = createShutdown(say)
  const leave = (code: number) => void shutdown.stop().then(() => process.exit(code))
  listenForSignals(shutdown, leave)
  const fail = (reason: string) => {
    if (shutdown.leaving.aborted) return
    console.error(`${reason} Stopping.`)
    leave(1)
  }
  try {
    if (options.modelDir !== null) await assertCheckpoint(options.modelDir, options.modelName)
    await assertPortFree(options.port)
    shutdown.leaving.throwIfAborted()
    const state = await openState(options.stateDir)
    shutdown.addBase(async () => state.release())
    say(`Starting on ${state.dir}`)
    await startAll(options, state, env, { shutdown, fail })
  } catch (error) {
    // What a stop has torn away is not what went wrong.
    if (shutdown.leaving.aborted) return
    console.error(error instanceof Error ? error.message : String(error))
    leave(1)
  }
}

function listenForSignals(shutdown: Shutdown, leave: (code: number) => void): void {
  let sinceMs = 0
  // SIGHUP: the terminal was closed. Nobody reads any more then, and writing is an error that has to be heard.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {})
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      if (!shutdown.leaving.aborted) {
        say('\nStopping. Unfinished jobs go on at the next start. Ctrl-C again kills what is left.')
        sinceMs = performance.now()
        leave(0)
      } else if (performance.now() - sinceMs > SAME_KEY_MS) shutdown.hurry()
    })
  }
}

async function startAll(
  options: StartOptions,
  state: LocalState,
  env: ReturnType<typeof readLocalEnv>,
  run: Run,
): Promise<void> {
  const { shutdown } = run
  const { leaving } = shutdown
  const pepper = env.KEY_PEPPER ?? state.secrets.pepper
  const url = env.DATABASE_URL ?? (await startDatabase(state, run))
  await migrateDatabase(url).catch((cause: unknown) => {
    const name = env.DATABASE_URL === undefined ? 'The embedded database' : 'DATABASE_URL'
    throw new Error(`${name} cannot be used: ${String(cause)}`, { cause })
  })
  leaving.throwIfAborted()
  const db = openDatabase(url, { maxConnections: 2, applicationName: 'glyphpress-start' })
  shutdown.addPart(() => closeDatabase(db))
  const queueEnv = env.SQS_QUEUE_URL === undefined ? await startLocalQueue(shutdown) : {}
  // With the folder locked and the database our own, no worker but ours can be on these jobs.
  const isAlone = env.DATABASE_URL === undefined
  await resumeJobs(db, isAlone)
  const pokeSecret = await deriveSecret(pepper, 'internal')
  const metricsPorts = { gateway: await findFreePort(), worker: await findFreePort() }

  // From here to the last start nothing waits, so a stop finds all parts or none.
  leaving.throwIfAborted()
  const address = `http://127.0.0.1:${options.port}`
  const { gateway, worker } = startParts({
    options,
    state,
    address,
    metricsPorts,
    pepper,
    pokeSecret,
    shared: {
      ...queueEnv,
      DATABASE_URL: url,
      ...(env.S3_BUCKET === undefined ? { OBJECT_DIR: state.objectDir } : {}),
    },
    shutdown,
    onWorkerDeath: () => {
      resumeJobs(db, isAlone).catch((error: unknown) => {
        if (!leaving.aborted)
          say(`The jobs of the worker go on at the next start: ${String(error)}`)
      })
    },
  })
  shutdown.addPart(() => gateway.stop(GATEWAY_STOP_MS))
  shutdown.addPart(() => worker.stop(WORKER_STOP_MS))
  await Promise.all([gateway.ready, worker.ready])
  // A key is shown once, so it is made when nothing can go wrong any more before it is shown.
  const makeKey = options.isKeyWanted ? createLocalKey : ensureFirstKey
  const key = await makeKey(db, pepper)
  const model = await findModel(db, 'glm-image')
  const metrics = Object.values(metricsPorts).map((port) => `http://127.0.0.1:${port}/metrics`)
  say(welcome({ address, key, notice: model?.notice ?? null, logDir: state.logDir, metrics }))
}

interface PartsInput {
  options: StartOptions
  state: LocalState
  address: string
  pepper: string
  pokeSecret: string
  /** Where each shows its figures. */
  metricsPorts: { gateway: number; worker: number }
  /** What both processes need to know. */
  shared: Record<string, string>
  shutdown: Shutdown
  onWorkerDeath: () => void
}

function startParts(input: PartsInput): { gateway: Part; worker: Part } {
  const { options, state, address, metricsPorts, shared, shutdown } = input
  const named = (name: string) => ({
    name,
    say,
    logDir: state.logDir,
    onSpawn: (child: ChildProcess) => shutdown.watch(name, child),
  })
  const gateway = startPart({
    ...named('gateway'),
    script: resolve('edge/node.ts'),
    readyEvent: 'listening',
    env: childEnv({
      ...shared,
      KEY_PEPPER: input.pepper,
      PUBLIC_URL: address,
      PORT: String(options.port),
      HOST: '127.0.0.1',
      WEBHOOK_ALLOW_LOOPBACK: '1',
      METRICS_PORT: String(metricsPorts.gateway),
    }),
  })
  const worker = startPart({
    ...named('worker'),
    script: resolve('gpu-worker/main.ts'),
    readyEvent: 'ready',
    env: childEnv({
      ...shared,
      ...(options.modelDir === null ? {} : { MODEL_DIR: options.modelDir }),
      GATEWAY_URL: address,
      POKE_SECRET: input.pokeSecret,
      METRICS_PORT: String(metricsPorts.worker),
      ...(options.threads === null ? {} : { THREADS: String(options.threads) }),
    }),
    onDeath: input.onWorkerDeath,
  })
  return { gateway, worker }
}

async function startDatabase(state: LocalState, { shutdown, fail }: Run): Promise<string> {
  const starting = startPostgres({
    dataDir: state.databaseDir,
    password: state.secrets.databasePassword,
    signal: shutdown.leaving,
    onSpawn: (child) => shutdown.watch('database', child),
  })
  // A stop that comes while it starts waits for it, so that no server is left behind.
  shutdown.addBase(() =>
    starting.then(
      (server) => server.stop(),
      () => {},
    ),
  )
  const server = await starting
  void server.ended.then(() => fail('The database server has ended; jobs go on at the next start.'))
  return server.url
}

async function startLocalQueue(shutdown: Shutdown): Promise<Record<string, string>> {
  const queue = await startQueue()
  shutdown.addBase(() => queue.stop())
  return queue.env
}

/**
 * Writes new messages for unfinished jobs: the queue in memory knows nothing of what the last run left.
 *
 * @param isAlone the worker is dead and there is no other, so its leases need not be waited for
 */
async function resumeJobs(db: Db, isAlone: boolean): Promise<void> {
  if (isAlone) await endLeases(db)
  await restageDispatch(db, { olderThanSeconds: 0, limit: MAX_RESTAGED })
}

async function assertPortFree(port: number): Promise<void> {
  const probe = createServer()
  await new Promise<void>((free, taken) => {
    probe.once('error', (cause: NodeJS.ErrnoException) => {
      const text =
        cause.code === 'EADDRINUSE'
          ? `Port ${port} on 127.0.0.1 is in use. Stop what listens there, or choose another: npm start -- --port 8788`
          : `Port ${port} on 127.0.0.1 cannot be used: ${cause.message}`
      taken(new Error(text, { cause }))
    })
    probe.listen(port, '127.0.0.1', free)
  })
  await new Promise((closed) => probe.close(closed))
}

try {
  await main()
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exit(1)
}
