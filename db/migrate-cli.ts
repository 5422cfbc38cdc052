import { fileURLToPath } from 'node:url'
import { migrate } from 'drizzle-orm/postgres-js/migrator'
import { closeDatabase, openDatabase } from './client.ts'

const MIGRATIONS = fileURLToPath(new URL('./migrations', import.meta.url))
/** A migration may rewrite a table; it gets more time than a request does. */
const STATEMENT_TIMEOUT_MS = 600_000
/** Any number: it only has to be the same for everyone who migrates. */
const MIGRATION_LOCK = 7_403_118

/**
 * Brings a database to the newest schema. Safe to repeat and to run from several processes at once: an
 * advisory lock lets one work while the others wait.
 *
 * @throws when the server is unreachable or older than PostgreSQL 15
 */
export async function migrateDatabase(url: string): Promise<void> {
  const db = openDatabase(url, {
    maxConnections: 1,
    applicationName: 'glyphpress-migrate',
    statementTimeoutMs: STATEMENT_TIMEOUT_MS,
  })
  try {
    const [row] = await db.sql<{ version: number }[]>`
      select current_setting('server_version_num')::int as version`
    if (!row || row.version < 150_000) throw new Error('PostgreSQL 15 or newer is needed')
    await db.sql`select pg_advisory_lock(${MIGRATION_LOCK}::int)`
    await migrate(db.orm, { migrationsFolder: MIGRATIONS })
  } finally {
    await closeDatabase(db)
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const url = process.env.DATABASE_URL
  if (!url) {
    console.error('DATABASE_URL is not set: postgres://user:password@host:5432/database')
    process.exitCode = 1
  } else {
    await migrateDatabase(url)
    console.log('The database has the newest schema.')
  }
}
