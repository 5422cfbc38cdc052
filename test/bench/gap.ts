/**
 * What a worker does between two jobs while nothing is computed, with full queues, by the number of slots.
 *
 *   npm run bench:gap -- [--jobs 40] [--job-seconds 12] [--model DIR] [--out FILE]
 *
 * A gap goes from the last step of one job's picture to the first step of the next one: encoding, storing, noting,
 * settling, telling the queue, asking it, claiming. At a tiny checkpoint its share of a job says nothing, so it is given
 * in milliseconds and as a share of a job of the length that is named. `cloud`: database 1 ms away, queue and store 10 ms,
 * each in a server of this machine behind a proxy that adds the way. With more than one slot another job computes
 * meanwhile, and only what nobody fills counts.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { startEngine } from '../../gpu-worker/engine.ts'
import type { Engine } from '../../gpu-worker/engine.ts'
import { parseWorkerEnv } from '../../gpu-worker/env.ts'
import { startWorker } from '../../gpu-worker/worker.ts'
import { startDelayProxy } from '../support/delay-proxy.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import { describeMachine } from '../support/machine.ts'
import { startQueue } from '../support/queue.ts'
import { cloneDatabase, openTemplateDatabase } from '../support/template-database.ts'
import { until } from '../support/worker.ts'

const GOAL_SHARE = 0.01
const SCENARIOS = [
  { name: 'local, one slot', slots: 1, databaseMs: 0, awsMs: 0 },
  { name: 'cloud, one slot', slots: 1, databaseMs: 1, awsMs: 10 },
  { name: 'cloud, two slots', slots: 2, databaseMs: 1, awsMs: 10 },
  { name: 'cloud, four slots', slots: 4, databaseMs: 1, awsMs: 10 },
]

const { values } = parseArgs({
  options: {
    jobs: { type: 'string', default: '40' },
    'job-seconds': { type: 'string', default: '12' },
    model: { type: 'string', default: 'gpu-worker/checkpoint' },
    out: { type: 'string' },
  },
})
const jobs = Number(values.jobs)
const jobSeconds = Number(values['job-seconds'])
const machine = describeMachine()
const template = await openTemplateDatabase()
const folder = await mkdtemp(join(tmpdir(), 'glyphpress-gap-'))
try {
  const scenarios = []
  for (const [index, scenario] of SCENARIOS.entries())
    scenarios.push(await measure(scenario, index))
  const report = {
    bench: 'gap',
    command: `npm run bench:gap -- --jobs ${jobs} --job-seconds ${jobSeconds}`,
    machine,
    loadAfter: describeMachine().load,
    goalShare: GOAL_SHARE,
    scenarios,
  }
  console.table(scenarios.map(({ gapsMs: _gapsMs, ...rest }) => rest))
  if (values.out !== undefined) await writeFile(values.out, `${JSON.stringify(report, null, 2)}\n`)
} finally {
  await template.close()
  await rm(folder, { recursive: true })
}

/** Spans in which a job computes. */
interface Span {
  fromMs: number
  toMs: number
}

/** The engine, with the spans from the first to the last step of each picture. */
function watch(engine: Engine): { engine: Engine; spans: Span[] } {
  const spans: Span[] = []
  const generate: Engine['generate'] = async (request, hooks) => {
    const span = { fromMs: 0, toMs: 0 }
    spans.push(span)
    return engine.generate(request, {
      ...hooks,
      onProgress(progress) {
        const now = performance.now()
        // The first report comes after the first step, so that this counts a step of the next job as well.
        if (span.fromMs === 0) span.fromMs = now
        // That of encoding comes after it, when the card has had nothing to do for a while.
        if (progress.stage !== 'encode') span.toMs = now
        hooks?.onProgress?.(progress)
      },
    })
  }
  return {
    engine: { info: engine.info, pid: engine.pid, generate, close: () => Promise.resolve() },
    spans,
  }
}

async function measure(scenario: (typeof SCENARIOS)[number], index: number) {
  const { slots, databaseMs, awsMs } = scenario
  const name = `gap_${index}`
  const database = await cloneDatabase(template.url, { template: template.templateName, name })
  const db = openDatabase(database.url, { maxConnections: 2 })
  const queue = await startQueue()
  const aws = new URL(queue.env['SQS_ENDPOINT'] ?? '')
  const toDatabase = await startDelayProxy(Number(new URL(database.url).port), databaseMs)
  const toAws = await startDelayProxy(Number(aws.port), awsMs)
  const engine = await startEngine({ modelDir: values.model, threads: 1, slots })
  try {
    const client = new S3Client({
      endpoint: aws.origin,
      region: 'us-east-1',
      forcePathStyle: true,
      credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
    })
    await client.send(new CreateBucketCommand({ Bucket: 'pictures' }))
    client.destroy()
    const far = new URL(database.url)
    far.port = String(toDatabase.port)
    const awsUrl = `http://127.0.0.1:${toAws.port}`
    const tenant = await createBareTenant(db, { org: { maxInflight: 10_000 } })
    for (let job = 0; job < jobs; job++) {
      const made = await reserve(db, tenant, { width: 256, height: 256, seed: job })
      if (!made.ok) throw new Error(made.reason)
      await queue.send(made.jobId)
    }
    const watched = watch(engine)
    const worker = await startWorker({
      env: parseWorkerEnv({
        ...queue.env,
        SQS_ENDPOINT: awsUrl,
        S3_ENDPOINT: awsUrl,
        S3_BUCKET: 'pictures',
        DATABASE_URL: far.href,
        MODEL_DIR: values.model,
        SLOTS: String(slots),
      }),
      engine: watched.engine,
      log: () => {},
    })
    await until(
      async () => {
        const [row] = await db.sql<{ count: number }[]>`
          select count(*)::int from job where finished_at is null`
        return row?.count === 0
      },
      () => 'all jobs to end',
      600_000,
    )
    await worker.stop()
    return toRow(scenario.name, watched.spans)
  } finally {
    await engine.close()
    await toDatabase.close()
    await toAws.close()
    await queue.close()
    await closeDatabase(db)
    await database.drop()
  }
}

/** Gaps between the spans laid over each other. */
function toRow(name: string, spans: readonly Span[]) {
  const gapsMs: number[] = []
  let endMs = Infinity
  for (const { fromMs, toMs } of spans.toSorted((a, b) => a.fromMs - b.fromMs)) {
    if (endMs !== Infinity) gapsMs.push(Math.max(0, Math.round(fromMs - endMs)))
    endMs = endMs === Infinity ? toMs : Math.max(endMs, toMs)
  }
  const sorted = gapsMs.toSorted((a, b) => a - b)
  const at = (share: number) => sorted[Math.floor(sorted.length * share)] ?? 0
  const shareOf = (ms: number) => Math.round((ms / (jobSeconds * 1_000)) * 10_000) / 10_000
  return {
    scenario: name,
    jobs: spans.length,
    gapMsP50: at(0.5),
    gapMsP95: at(0.95),
    /** Of a job of the named length. */
    shareP50: shareOf(at(0.5)),
    shareP95: shareOf(at(0.95)),
    isReached: shareOf(at(0.5)) < GOAL_SHARE,
    gapsMs,
  }
}
