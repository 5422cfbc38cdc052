import { createHash } from 'node:crypto'
import { readFileSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { migrate } from 'drizzle-orm/postgres-js/migrator'
import { closeDatabase, openDatabase, withTransaction } from './client.ts'
import type { Db } from './client.ts'

/** Tables, constraints and first rows: each file is applied once, and never changes after it has landed. */
const MIGRATIONS = fileURLToPath(new URL('./migrations', import.meta.url))
/** Functions and triggers as they are now: applied in the order of their names, all anew when one has changed. */
const FUNCTIONS = fileURLToPath(new URL('./functions', import.meta.url))
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
    await applyFunctions(db)
  } finally {
    await closeDatabase(db)
  }
}

/** Whoever is in the middle of a call has the old functions or the new ones, never some of each. */
async function applyFunctions(db: Db): Promise<void> {
  const files = readdirSync(FUNCTIONS).filter((name) => name.endsWith('.sql'))
  const text = files
    .sort()
    .map((name) => readFileSync(`${FUNCTIONS}/${name}`, 'utf8'))
    .join('\n')
  const sha256 = createHash('sha256').update(text).digest('hex')
  await db.sql`create table if not exists drizzle.functions (
    sha256 text not null, applied_at timestamptz not null default now())`
  const [last] = await db.sql<{ sha256: string }[]>`
    select sha256 from drizzle.functions order by applied_at desc limit 1`
  if (last?.sha256 === sha256) return
  await withTransaction(db, async (tx) => {
    await tx.sql.unsafe(text)
    await tx.sql`insert into drizzle.functions (sha256) values (${sha256})`
  })
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const url = process.env.DATABASE_URL
  if (process.argv.includes('--help')) {
    console.log(
      'Usage: npm run db:migrate\n\nBrings the database of DATABASE_URL to the newest schema.',
    )
  } else if (!url) {
    console.error('DATABASE_URL is not set: postgres://user:password@host:5432/database')
    process.exitCode = 1
  } else {
    await migrateDatabase(url)
    console.log('The database has the newest schema.')
  }
}
