import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'vitest'
import { markDispatched, takeDueDispatches } from '../../db/outbox.ts'
import { startEngine } from '../../gpu-worker/engine.ts'
import type { Engine } from '../../gpu-worker/engine.ts'
import { parseWorkerEnv } from '../../gpu-worker/env.ts'
import type { TextReader } from '../../gpu-worker/ocr/reader.ts'
import { startWorker, WORKER_TIMES } from '../../gpu-worker/worker.ts'
import type { PictureStore } from '../../gpu-worker/store.ts'
import type { RunningWorker, WorkerTimes } from '../../gpu-worker/worker.ts'
import { checkBooks } from './books.ts'
import { createTestDatabase } from './database.ts'
import type { TestDatabase } from './database.ts'
import { createBareTenant, IMAGE_MICROS, reserve } from './jobs.ts'
import { startQueue } from './queue.ts'
import type { TestQueue } from './queue.ts'
import { startWire } from './wire.ts'
import type { Wire } from './wire.ts'
import { killAll, MODEL_DIR, spawnWorker, until } from './worker.ts'
import type { LogEntry } from './worker.ts'

/** Parts of the statements between which a worker is stopped. */
export const CLAIM = 'started_at = coalesce'
export const RECORD = 'insert into job_output'
export const SETTLE = 'settle_job('

/** The same engine, with something done around each picture. */
export function wrapEngine(engine: Engine, generate: Engine['generate']): Engine {
  return {
    get info() {
      return engine.info
    },
    get pid() {
      return engine.pid
    },
    generate,
    close: () => engine.close(),
  }
}

export interface InsideWorker extends RunningWorker {
  readonly log: readonly LogEntry[]
  output(): string
}

export type Floor = Awaited<ReturnType<typeof openFloor>>

/** A database, a queue, an object store and a tenant: what real worker processes need to be put to work. */
export async function openFloor() {
  const database: TestDatabase = await createTestDatabase()
  const { db } = database
  const tenant = await createBareTenant(db, { org: { maxInflight: 1000 } })
  const wire: Wire = await startWire(database.url)
  const queue: TestQueue = await startQueue()
  const objectDir = await mkdtemp(join(tmpdir(), 'glyphpress-objects-'))

  let engine: Promise<Engine> | null = null
  const inside: RunningWorker[] = []
  /** One engine for all workers in this process, which take turns. */
  const sharedEngine = async (): Promise<Engine> => {
    engine ??= startEngine({ modelDir: MODEL_DIR, threads: 1 })
    const own = await engine
    let turn: Promise<unknown> = Promise.resolve()
    const generate: Engine['generate'] = (request, hooks) => {
      const picture = turn.then(() => own.generate(request, hooks))
      turn = picture.catch(() => {})
      return picture
    }
    return { ...wrapEngine(own, generate), close: () => Promise.resolve() }
  }

  const jobRow = async (jobId: string) => {
    const [row] = await db.sql<
      { state: string; attempt: number; failures: number; errorCode: string | null }[]
    >`select state, attempt, failed_attempts as failures, error_code as "errorCode" from job where id = ${jobId}`
    if (!row) throw new Error(`no job ${jobId}`)
    return row
  }
  const outputsOf = (jobId: string) => db.sql<
    { idx: number; objectKey: string; sha256: string; storedAt: Date }[]
  >`
    select idx, object_key as "objectKey", sha256, stored_at as "storedAt" from job_output
     where job_id = ${jobId} order by idx`
  const chargedMicros = async (jobId: string) => {
    const [row] = await db.sql<{ micros: bigint }[]>`
      select coalesce(sum(net_micros), 0)::bigint as micros from usage_event where job_id = ${jobId}`
    return row?.micros ?? -1n
  }
  return {
    db,
    queue,
    wire,
    databaseUrl: database.url,
    objectDir,
    jobRow,
    outputsOf,
    chargedMicros,
    async newJob(changes: Parameters<typeof reserve>[2] = {}): Promise<string> {
      const result = await reserve(db, tenant, changes)
      if (!result.ok) throw new Error(result.reason)
      return result.jobId
    },
    sharedEngine,
    /** A worker in this process: cheap to start, but not to be killed. A wired one can be stopped between statements. */
    async startInside(
      options: {
        engine?: Engine
        times?: Partial<WorkerTimes>
        store?: PictureStore
        isWired?: boolean
        slots?: number
        reader?: TextReader
      } = {},
    ): Promise<InsideWorker> {
      const log: LogEntry[] = []
      const worker = await startWorker({
        env: parseWorkerEnv({
          ...queue.env,
          DATABASE_URL: options.isWired ? wire.url : database.url,
          OBJECT_DIR: objectDir,
          MODEL_DIR,
          SLOTS: String(options.slots ?? 1),
        }),
        ...(options.store && { store: options.store }),
        ...(options.reader && { reader: options.reader }),
        engine: options.engine ?? (await sharedEngine()),
        log: (entry) => void log.push(entry),
        times: { ...WORKER_TIMES, ...options.times },
      })
      inside.push(worker)
      const output = () => log.map((entry) => JSON.stringify(entry)).join('\n')
      return { ...worker, log, output }
    },
    /** A worker process of its own. */
    startWorker: (env: Record<string, string> = {}) =>
      spawnWorker({ databaseUrl: database.url, queue, objectDir, env }),
    /** A worker process behind the wire, which can be stopped between two of its statements. */
    startTrapped: (env: Record<string, string> = {}) =>
      spawnWorker({ databaseUrl: wire.url, queue, objectDir, env }),
    /** What the passing of a minute does after a worker died: its claim and its message run out. */
    async letLeaseRunOut(jobId: string): Promise<void> {
      await db.sql`update job set lease_until = now() where id = ${jobId} and state = 'running'`
      queue.dropPolls()
      await queue.expireVisibility()
    },
    /** Sends what the outbox holds, as the gateway's sweep does. */
    async sendDue(): Promise<void> {
      const due = await takeDueDispatches(db, { limit: 100, graceSeconds: 0 })
      for (const { jobId } of due) await queue.send(jobId)
      await markDispatched(
        db,
        due.map(({ id }) => id),
      )
    },
    untilState: (jobId: string, state: string, worker?: { output(): string }) =>
      until(
        async () => (await jobRow(jobId)).state === state,
        () => `${jobId} to be ${state}:\n${worker?.output() ?? ''}`,
      ),
    untilQueueEmpty: () =>
      until(
        () => queue.counts().ready + queue.counts().inflight === 0,
        () => `the queue to be empty, it holds ${JSON.stringify(queue.counts())}`,
      ),
    untilLettersRead: () =>
      until(
        () => queue.counts().dead === 0,
        () => 'the dead letters to be read',
      ),
    /** What the store holds of a job, noted or not. */
    async objectsOf(jobId: string): Promise<string[]> {
      const names = await readdir(join(objectDir, 'images', jobId)).catch(() => [])
      return names.map((name) => `images/${jobId}/${name}`).toSorted()
    },
    /** Every picture of the job is there, is what its checksum says, was charged once; the books balance. */
    async expectDelivered(jobId: string, count: number): Promise<void> {
      const outputs = await outputsOf(jobId)
      expect(outputs.map(({ idx }) => idx)).toEqual(Array.from({ length: count }, (_, idx) => idx))
      for (const { objectKey, sha256 } of outputs) {
        const bytes = await readFile(join(objectDir, objectKey))
        expect(createHash('sha256').update(bytes).digest('hex')).toBe(sha256)
      }
      expect(await chargedMicros(jobId)).toBe(BigInt(count) * IMAGE_MICROS)
      expect(await checkBooks(db)).toEqual([])
    },
    async expectNothingCharged(jobId: string): Promise<void> {
      expect(await chargedMicros(jobId)).toBe(0n)
      expect(await checkBooks(db)).toEqual([])
    },
    /** Ends the workers of one test and forgets its messages. */
    async clear(): Promise<void> {
      await wire.up()
      await Promise.all([killAll(), ...inside.splice(0).map((worker) => worker.stop())])
      wire.cut()
      queue.dropPolls()
      queue.lose()
    },
    async close(): Promise<void> {
      await killAll()
      await (await engine)?.close()
      await wire.close()
      await queue.close()
      await database.close()
      await rm(objectDir, { recursive: true, force: true })
    },
  }
}
