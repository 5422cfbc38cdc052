import { inject } from 'vitest'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'

/** Storms of calls on a machine that runs other things too queue longer than the product lets them. */
const STATEMENT_TIMEOUT_MS = 30_000

export interface TestDatabase {
  url: string
  db: Db
  close(): Promise<void>
}

/** A fresh migrated database of its own, cloned from the run's template; dropped by `close`. */
export async function createTestDatabase(
  options: { maxConnections?: number } = {},
): Promise<TestDatabase> {
  const admin = openDatabase(inject('databaseUrl'), { maxConnections: 1 })
  const name = `t_${process.pid}_${Math.random().toString(36).slice(2, 10)}`
  // Cloning takes an exclusive look at the template; another file's clone may be under way.
  for (let attempt = 0; ; attempt++) {
    try {
      await admin.sql`create database ${admin.sql(name)} template ${admin.sql(inject('templateName'))}`
      break
    } catch (error) {
      if (attempt >= 50) throw error
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
  const url = new URL(inject('databaseUrl'))
  url.pathname = `/${name}`
  const db = openDatabase(url.href, {
    maxConnections: options.maxConnections ?? 10,
    statementTimeoutMs: STATEMENT_TIMEOUT_MS,
  })
  return {
    url: url.href,
    db,
    async close() {
      await closeDatabase(db)
      await admin.sql`drop database if exists ${admin.sql(name)} with (force)`
      await closeDatabase(admin)
    },
  }
}
