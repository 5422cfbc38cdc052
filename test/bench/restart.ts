/**
 * In real time, with the times of the product: how long a job whose worker is killed waits until another worker draws it.
 *
 *   npm run bench:restart -- [--kills 6] [--seed 1] [--out FILE]
 *
 * Each kill has two worker processes and a queue of its own; all run at the same time, so the whole takes about two minutes.
 * The job takes far longer than any lease, and the kill comes at a random moment between two beats.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { BEAT_SECONDS, VISIBILITY_SECONDS } from '../../gpu-worker/settings.ts'
import { createRandom } from '../simulation/random.ts'
import { createBareTenant, reserve } from '../support/jobs.ts'
import { describeMachine } from '../support/machine.ts'
import { startQueue } from '../support/queue.ts'
import { cloneDatabase, openTemplateDatabase } from '../support/template-database.ts'
import { killAll, spawnScript, until } from '../support/worker.ts'

const GOAL_SECONDS = 60
/** No lease of any length covers it. */
const DRAW_MS = 600_000

const { values } = parseArgs({
  options: {
    kills: { type: 'string', default: '6' },
    seed: { type: 'string', default: '1' },
    out: { type: 'string' },
  },
})
const random = createRandom(Number(values.seed), 'restart')
const machine = describeMachine()
const folder = await mkdtemp(join(tmpdir(), 'glyphpress-restart-'))
const template = await openTemplateDatabase()
const name = 'restart'
const { url, drop } = await cloneDatabase(template.url, { template: template.templateName, name })
const db = openDatabase(url, { maxConnections: 4 })
try {
  const kills = Array.from({ length: Number(values.kills) }, () => ({
    // After two beats, anywhere up to the third.
    afterMs: (2 * BEAT_SECONDS + random.next() * BEAT_SECONDS) * 1_000,
  }))
  const runs = await Promise.all(kills.map(({ afterMs }) => killOne(db, afterMs)))
  const seconds = runs.map(({ restartSeconds }) => restartSeconds)
  const report = {
    bench: 'restart',
    command: `npm run bench:restart -- --kills ${kills.length} --seed ${values.seed}`,
    machine,
    loadAfter: describeMachine().load,
    visibilitySeconds: VISIBILITY_SECONDS,
    beatSeconds: BEAT_SECONDS,
    goalSeconds: GOAL_SECONDS,
    minSeconds: Math.min(...seconds),
    maxSeconds: Math.max(...seconds),
    runs,
  }
  console.table(runs)
  console.log(
    `from the kill to the next worker's drawing: ${report.minSeconds} to ${report.maxSeconds} s (goal: under ${GOAL_SECONDS})`,
  )
  if (values.out !== undefined) await writeFile(values.out, `${JSON.stringify(report, null, 2)}\n`)
} finally {
  await killAll()
  await closeDatabase(db)
  await drop()
  await template.close()
  await rm(folder, { recursive: true })
}

async function killOne(db: Db, afterMs: number) {
  const queue = await startQueue()
  try {
    const tenant = await createBareTenant(db)
    const made = await reserve(db, tenant, { deadlineSeconds: 3_600 })
    if (!made.ok) throw new Error(made.reason)
    const env = {
      ...queue.env,
      DATABASE_URL: url,
      OBJECT_DIR: folder,
      MODEL_DIR: folder,
      DRAW_MS: String(DRAW_MS),
    }
    const start = () => spawnScript('test/bench/restart-worker.ts', { env })
    const drawing = (worker: ReturnType<typeof start>) =>
      until(
        () => worker.log.some(({ event }) => event === 'drawing'),
        () => `a worker to draw:\n${worker.output()}`,
        180_000,
      )
    const victim = start()
    await queue.send(made.jobId)
    await drawing(victim)
    const heir = start()
    await wait(afterMs)
    const killedAt = Date.now()
    victim.kill('SIGKILL')
    await drawing(heir)
    const startedAt = Number(heir.log.find(({ event }) => event === 'drawing')?.['atMs'])
    const [job] = await db.sql<{ attempt: number }[]>`
      select attempt from job where id = ${made.jobId}`
    return {
      killedAfterSeconds: Math.round(afterMs / 100) / 10,
      restartSeconds: Math.round((startedAt - killedAt) / 100) / 10,
      attempt: job?.attempt ?? 0,
    }
  } finally {
    await queue.close()
  }
}
