import { createHash } from 'node:crypto'
import { setTimeout as wait } from 'node:timers/promises'
import { handleLetter } from '../../gpu-worker/dead-letter.ts'
import { EngineError } from '../../gpu-worker/engine.ts'
import type { Engine } from '../../gpu-worker/engine.ts'
import { runJob } from '../../gpu-worker/run-job.ts'
import { isExpected, textOf } from './expected-errors.ts'
import { createLife, withLife } from './life.ts'
import { createPictureReader } from './picture-reader.ts'
import { createPictureStore } from './picture-store.ts'
import type { Random } from './random.ts'
import type { World } from './world.ts'
import { ENGINE_INFO } from '../support/engine-info.ts'

/** Beats come soon, so that they too meet faults; leases end when the world says that time has passed. */
const TIMES = { leaseSeconds: 120, beatSeconds: 1, progressIntervalMs: 100, retrySeconds: [0] }
const KILL_RATE = 0.01
const ENGINE_FAILURE_RATE = 0.04
/** Long enough for a lease to lapse under it: a worker that finishes after its time. */
const SLOW_RATE = 0.12
/** Longer than a statement can be late. */
const HANGING_RATE = 0.01

/** Ids of workers that were killed or let go of their job: their leases run out. */
export type DeadWorkers = Set<string>

/** A place for one worker process after the other, until `isOver`. */
export async function runWorkers(
  world: World,
  input: { slot: number; dead: DeadWorkers; isOver: () => boolean },
): Promise<void> {
  const random = world.random(`worker ${input.slot}`)
  const nobody = new AbortController()
  for (let number = 0; !input.isOver(); number++) {
    const workerId = `worker-${input.slot}-${number}`
    const rate = () => (world.isQuiet() ? 0 : KILL_RATE)
    const life = createLife({ name: 'worker', random, ledger: world.ledger, rate })
    const db = withLife(world.db, life, (sql, [document]) => {
      if (!sql.includes('settle_job(')) return
      const { job_id: jobId } = JSON.parse(String(document)) as { job_id: string }
      const { enders } = world.journal
      enders.set(jobId, (enders.get(jobId) ?? new Set()).add(workerId))
    })
    const { pictures, ledger, isQuiet } = world
    const store = createPictureStore({ pictures, life, random, ledger, isQuiet })
    let hasDrawn = false
    const engine = createEngine(world, random, workerId, () => void (hasDrawn = true))
    const deps = {
      db,
      engine,
      store,
      reader: createPictureReader({ readings: world.journal.readings, random, ledger, isQuiet }),
      workerId,
      times: TIMES,
      log: () => {},
    }
    while (!life.isOver && !input.isOver()) {
      const message = world.queue.receive(workerId)
      if (!message) {
        await wait(20)
        continue
      }
      try {
        hasDrawn = false
        const lease = { signal: nobody.signal, renew: () => {} }
        const end = await runJob(deps, message.jobId, { lease, stop: nobody.signal })
        // Who draws has claimed the job, and only the last to have done so may end it.
        if (hasDrawn && end.outcome === 'settled') await checkOwner(world, message.jobId, workerId)
        life.step()
        if (end.outcome === 'settled' || end.outcome === 'gone') world.queue.remove(message)
        else if (end.outcome === 'given_back') world.queue.show(message)
      } catch (error) {
        if (!isExpected(error)) {
          world.journal.broken.push(`a worker failed with what no fault explains: ${textOf(error)}`)
        }
        // It let go of the job without a word. Nobody renews that lease, and the next one here is another worker.
        break
      }
    }
    input.dead.add(workerId)
  }
}

async function checkOwner(world: World, jobId: string, workerId: string): Promise<void> {
  const [job] = await world.direct.sql<{ owner: string | null }[]>`
    select worker_id as owner from job where id = ${jobId}`
  if (job?.owner !== workerId) {
    world.journal.broken.push(`job ${jobId} of ${job?.owner} was ended by ${workerId}`)
  }
}

/** Reads dead letters as the product does. */
export async function readLetters(world: World): Promise<void> {
  const deps = {
    db: world.db,
    letters: {
      receive: () => Promise.resolve(null),
      extend: () => Promise.resolve(),
      remove: () => Promise.resolve(),
      close: () => {},
    },
    pollSeconds: 0,
    log: () => {},
    onSettled: () => {},
  }
  for (const { id, jobId } of world.queue.dead.splice(0)) {
    try {
      await handleLetter(deps, { id, body: JSON.stringify({ jobId }), receipt: id })
    } catch (error) {
      if (!isExpected(error)) world.journal.broken.push(`a dead letter failed: ${textOf(error)}`)
      world.queue.dead.push({ id, jobId, receives: 9, isHidden: false, workerId: '' })
      return
    }
  }
}

let made = 0

/** Makes pictures that differ, in no time, now and then slowly or not at all. */
function createEngine(world: World, random: Random, workerId: string, onDraw: () => void): Engine {
  return {
    info: ENGINE_INFO,
    pid: undefined,
    async generate({ width = 256, height = 256, seed, tokens }, hooks) {
      onDraw()
      if (tokens && tokens[0] !== seed) {
        world.journal.broken.push(`a picture of seed ${seed} was begun with tokens of ${tokens[0]}`)
      }
      if (!tokens) hooks?.onTokens?.(Int32Array.of(seed))
      hooks?.onProgress?.({ stage: 'denoise', step: 1, steps: 1 } as never)
      if (!world.isQuiet()) {
        const isHanging = random.chance(HANGING_RATE)
        const isSlow = random.chance(SLOW_RATE)
        await wait(isHanging ? 3_500 : isSlow ? 400 + random.int(600) : random.int(30))
        if (random.chance(ENGINE_FAILURE_RATE)) {
          world.ledger.note('engine', 'crashed')
          throw new EngineError('engine_crashed', 'the engine crashed')
        }
      }
      hooks?.signal?.throwIfAborted()
      made += 1
      const bytes = Buffer.from(`picture ${made}`)
      const sha256 = createHash('sha256').update(bytes).digest('hex')
      world.journal.makers.set(sha256, workerId)
      const timingsMs = { total: 1 }
      const rest = { steps: 1, guidanceScale: 1, tokenCount: 1, timingsMs }
      return { bytes, contentType: 'image/png', sha256, width, height, seed, ...rest }
    },
    close: () => Promise.resolve(),
  }
}
