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
import { HELP, readOptions } from './options.ts'
import type { StartOptions } from './options.ts'
import { startPostgres } from './postgres.ts'
import { startPart } from './processes.ts'
import type { Part } from './processes.ts'
import { LOCAL_CREDENTIALS, startQueue } from './queue.ts'
import { openState } from './state.ts'
import type { LocalState } from './state.ts'

/** Everything is stopped within ten seconds: the worker hands back its job in eight. */
const WORKER_STOP_MS = 8_500
const GATEWAY_STOP_MS = 6_000
const MAX_RESTAGED = 100_000

const say = (text: string) => console.log(text)

/** Ends what was started, newest first. */
type Cleanup = () => Promise<unknown>

/** One start, from the first part to the last. */
interface Run {
  readonly cleanups: Cleanup[]
  /** Aborted when everything is to be stopped. */
  readonly leaving: AbortSignal
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
  await assertPortFree(options.port)
  const cleanups: Cleanup[] = []
  const leaving = new AbortController()
  let stopping: Promise<void> | null = null
  const stop = () => {
    leaving.abort(new Error('stopped while it started'))
    return (stopping ??= stopAll(cleanups))
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      console.log('\nStopping: unfinished jobs go on at the next start.')
      void stop().then(() => process.exit(0))
    })
  }
  const fail = (reason: string) => {
    if (leaving.signal.aborted) return
    console.error(`${reason} Stopping.`)
    void stop().then(() => process.exit(1))
  }
  try {
    const state = await openState(options.stateDir)
    cleanups.push(() => state.release())
    await startAll(options, state, env, { cleanups, leaving: leaving.signal, fail })
  } catch (error) {
    await stop()
    throw error
  }
}

async function startAll(
  options: StartOptions,
  state: LocalState,
  env: ReturnType<typeof readLocalEnv>,
  run: Run,
): Promise<void> {
  const { cleanups, leaving } = run
  const pepper = env.KEY_PEPPER ?? state.secrets.pepper
  const url = env.DATABASE_URL ?? (await startDatabase(state, run))
  await migrateDatabase(url)
  const db = openDatabase(url, { maxConnections: 2, applicationName: 'glyphpress-start' })
  cleanups.push(() => closeDatabase(db))
  const queueEnv = env.SQS_QUEUE_URL === undefined ? await startLocalQueue(cleanups) : {}
  // With the folder locked and the database our own, no worker but ours can be on these jobs.
  const isAlone = env.DATABASE_URL === undefined
  await resumeJobs(db, isAlone)
  const pokeSecret = await deriveSecret(pepper, 'internal')

  // From here to the last start nothing waits, so a stop finds all parts or none.
  leaving.throwIfAborted()
  const address = `http://127.0.0.1:${options.port}`
  const { gateway, worker } = startParts({
    options,
    state,
    address,
    pepper,
    pokeSecret,
    shared: {
      ...queueEnv,
      DATABASE_URL: url,
      ...(env.S3_BUCKET === undefined ? { OBJECT_DIR: state.objectDir } : {}),
    },
    onWorkerDeath: () => void resumeJobs(db, isAlone).catch(report),
  })
  cleanups.push(
    () => gateway.stop(GATEWAY_STOP_MS),
    () => worker.stop(WORKER_STOP_MS),
  )
  await Promise.all([gateway.ready, worker.ready])
  // A key is shown once, so it is made when nothing can go wrong any more before it is shown.
  const makeKey = options.isKeyWanted ? createLocalKey : ensureFirstKey
  const key = await makeKey(db, pepper)
  const model = await findModel(db, 'glm-image')
  say(welcome({ address, key, notice: model?.notice ?? null, logDir: state.logDir }))
}

interface PartsInput {
  options: StartOptions
  state: LocalState
  address: string
  pepper: string
  pokeSecret: string
  /** What both processes need to know. */
  shared: Record<string, string>
  onWorkerDeath: () => void
}

function startParts(input: PartsInput): { gateway: Part; worker: Part } {
  const { options, state, address, shared } = input
  const common = { logDir: state.logDir, say }
  const gateway = startPart({
    ...common,
    name: 'gateway',
    script: resolve('edge/node.ts'),
    readyEvent: 'listening',
    env: childEnv({
      ...shared,
      KEY_PEPPER: input.pepper,
      PUBLIC_URL: address,
      PORT: String(options.port),
      HOST: '127.0.0.1',
      WEBHOOK_ALLOW_LOOPBACK: '1',
    }),
  })
  const worker = startPart({
    ...common,
    name: 'worker',
    script: resolve('gpu-worker/main.ts'),
    readyEvent: 'ready',
    env: childEnv({
      ...shared,
      MODEL_DIR: options.modelDir,
      GATEWAY_URL: address,
      POKE_SECRET: input.pokeSecret,
      ...(options.threads === null ? {} : { THREADS: String(options.threads) }),
    }),
    onDeath: input.onWorkerDeath,
  })
  return { gateway, worker }
}

async function startDatabase(state: LocalState, { cleanups, fail }: Run): Promise<string> {
  const starting = startPostgres({
    dataDir: state.databaseDir,
    password: state.secrets.databasePassword,
  })
  // A stop that comes while it starts waits for it, so that no server is left behind.
  cleanups.push(() =>
    starting.then(
      (server) => server.stop(),
      () => {},
    ),
  )
  const server = await starting
  void server.ended.then(() => fail('The database server has ended; jobs go on at the next start.'))
  return server.url
}

async function startLocalQueue(cleanups: Cleanup[]): Promise<Record<string, string>> {
  const queue = await startQueue()
  cleanups.push(() => queue.stop())
  return {
    SQS_QUEUE_URL: queue.queueUrl,
    SQS_DLQ_URL: queue.deadLetterUrl,
    SQS_ENDPOINT: queue.endpoint,
    AWS_REGION: queue.region,
    AWS_ACCESS_KEY_ID: LOCAL_CREDENTIALS.accessKeyId,
    AWS_SECRET_ACCESS_KEY: LOCAL_CREDENTIALS.secretAccessKey,
  }
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

/** Worker and gateway end side by side, then what they stood on, newest first. */
async function stopAll(cleanups: Cleanup[]): Promise<void> {
  const parts = cleanups.splice(-2)
  await Promise.all(parts.map((cleanup) => cleanup().catch(report)))
  while (cleanups.length > 0) await cleanups.pop()?.().catch(report)
}

function report(error: unknown): void {
  console.error(`While stopping: ${String(error)}`)
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

function welcome(about: {
  address: string
  key: string | null
  notice: string | null
  logDir: string
}): string {
  const shownKey = about.key ?? '$GLYPHPRESS_KEY'
  return [
    '',
    `Glyphpress runs at ${about.address}`,
    about.key === null
      ? '  API key   shown at the first start; put it into GLYPHPRESS_KEY, or get another with --new-key'
      : `  API key   ${about.key}   (shown this once, stored as a hash)`,
    `  logs      ${about.logDir}`,
    ...(about.notice === null ? [] : [`  model     ${about.notice}`]),
    '',
    'Draw a picture:',
    '',
    `curl -s ${about.address}/v1/images/generations -H 'Authorization: Bearer ${shownKey.startsWith('$') ? `'"${shownKey}"` : `${shownKey}'`} -H 'Content-Type: application/json' -d '{"prompt":"A navy poster with the title \\"GRAND OPENING\\""}'`,
    '',
    'Ctrl-C stops everything.',
  ].join('\n')
}

try {
  await main()
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exit(1)
}
