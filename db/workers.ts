import type { Db } from './client.ts'

/**
 * Says that a worker is there and how much it has in hand. Safe to repeat, at any rhythm.
 *
 * @param input.id as it claims jobs
 */
export async function noteWorker(
  db: Db,
  input: { id: string; slots: number; busy: number },
): Promise<void> {
  await db.sql`
    insert into worker (id, slots, busy) values (${input.id}, ${input.slots}::int, ${input.busy}::int)
    on conflict (id) do update set slots = excluded.slots, busy = excluded.busy, seen_at = now()`
}

/** A worker leaves in order; one that dies is forgotten by `pruneWorkers`. */
export async function forgetWorker(db: Db, id: string): Promise<void> {
  await db.sql`delete from worker where id = ${id}`
}

/** Removes workers that were silent for so long. @returns how many */
export async function pruneWorkers(db: Db, input: { olderThanSeconds: number }): Promise<number> {
  const removed = await db.sql`
    delete from worker where seen_at < now() - make_interval(secs => ${input.olderThanSeconds})`
  return removed.count
}
