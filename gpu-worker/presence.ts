import type { Db } from '../db/client.ts'
import { forgetWorker, noteWorker } from '../db/workers.ts'
import type { Log } from './consume.ts'

/** Three of these fit into the minute for which a worker counts as seen. */
const NOTE_MS = 20_000

/**
 * Says now and then that this worker is there, for people and monitors: an idle one leaves no other trace. What fails is
 * logged once and tried again.
 *
 * @returns to be called when the worker leaves
 */
export function startPresence(
  db: Db,
  worker: { id: string; slots: number; busy: () => number; log: Log },
): () => Promise<void> {
  const { id, slots, busy, log } = worker
  let isFailing = false
  const note = async () => {
    try {
      await noteWorker(db, { id, slots, busy: busy() })
      isFailing = false
    } catch (error) {
      if (!isFailing) log({ level: 'warn', event: 'presence_not_noted', error: String(error) })
      isFailing = true
    }
  }
  let noting = note()
  const timer = setInterval(() => {
    noting = note()
  }, NOTE_MS)
  return async () => {
    clearInterval(timer)
    await noting
    // Nobody minds a row more for a minute.
    await forgetWorker(db, id).catch(() => {})
  }
}
