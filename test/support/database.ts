import { inject } from 'vitest'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'
import { cloneDatabase } from './template-database.ts'

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
  const name = `t_${process.pid}_${Math.random().toString(36).slice(2, 10)}`
  const { url, drop } = await cloneDatabase(inject('databaseUrl'), {
    template: inject('templateName'),
    name,
  })
  const db = openDatabase(url, {
    maxConnections: options.maxConnections ?? 10,
    statementTimeoutMs: STATEMENT_TIMEOUT_MS,
  })
  return {
    url,
    db,
    async close() {
      await closeDatabase(db)
      await drop()
    },
  }
}
