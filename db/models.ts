import { eq } from 'drizzle-orm'
import type { Db } from './client.ts'
import { model } from './schema/job.ts'

export type ModelRow = typeof model.$inferSelect

/** Says what a worker serves; the newest word wins. */
export async function announceModel(
  db: Db,
  announcement: Omit<ModelRow, 'announcedAt'>,
): Promise<void> {
  const row = { ...announcement, announcedAt: new Date() }
  await db.orm.insert(model).values(row).onConflictDoUpdate({ target: model.id, set: row })
}

/** A model by its public name, or null when no worker has announced it yet. */
export async function findModel(db: Db, id: string): Promise<ModelRow | null> {
  const [row] = await db.orm.select().from(model).where(eq(model.id, id))
  return row ?? null
}

/** All announced models, by name. */
export function listModels(db: Db): Promise<ModelRow[]> {
  return db.orm.select().from(model).orderBy(model.id)
}
