import { drizzle } from 'drizzle-orm/postgres-js'
import type { PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'

/** A database handle: `sql` for hand-written statements, `orm` for typed queries, one pool behind both. */
export interface Db {
  readonly sql: postgres.Sql<{ bigint: bigint }>
  readonly orm: PostgresJsDatabase
}

/** Opening a TCP connection to a database in the same region takes milliseconds; more means it is down. */
const CONNECT_TIMEOUT_SECONDS = 10
/** Idle connections are given back so that a quiet process does not hold the server's slots. */
const IDLE_TIMEOUT_SECONDS = 60
/** No statement of ours is meant to run longer; the server ends it and frees its locks. */
const STATEMENT_TIMEOUT_MS = 30_000

/**
 * Opens a pool. Connections are made on first use, so a wrong address shows at the first query.
 *
 * int8 columns read by hand-written SQL arrive as bigint (money), never as a rounded number.
 *
 * @param url `postgres://user:password@host:port/database`
 */
export function openDatabase(
  url: string,
  options: { maxConnections?: number; applicationName?: string; statementTimeoutMs?: number } = {},
): Db {
  const sql = postgres(url, {
    max: options.maxConnections ?? 10,
    connect_timeout: CONNECT_TIMEOUT_SECONDS,
    idle_timeout: IDLE_TIMEOUT_SECONDS,
    types: { bigint: postgres.BigInt },
    connection: {
      application_name: options.applicationName ?? 'glyphpress',
      statement_timeout: options.statementTimeoutMs ?? STATEMENT_TIMEOUT_MS,
    },
    onnotice: () => {},
  })
  return toDb(sql)
}

/** How long a closing waits for running queries unless it is told otherwise. */
const CLOSE_TIMEOUT_SECONDS = 5

/** Waits a while for running queries, then closes every connection. Safe to repeat. */
export async function closeDatabase(
  db: Db,
  options: { timeoutSeconds?: number } = {},
): Promise<void> {
  await db.sql.end({ timeout: options.timeoutSeconds ?? CLOSE_TIMEOUT_SECONDS })
}

/** Runs `work` in one transaction: committed when it resolves, rolled back when it throws. */
export async function withTransaction<T>(db: Db, work: (tx: Db) => Promise<T>): Promise<T> {
  const result = await db.sql.begin(async (sql) => {
    // The transaction's handle lacks only `options`, which drizzle reads; for statements it is the same.
    const tx = Object.assign(sql as unknown as Db['sql'], { options: db.sql.options })
    return { value: await work(toDb(tx)) }
  })
  return result.value
}

/** date, timestamp and timestamptz. */
const DATE_TYPES = [1082, 1114, 1184] as const

/**
 * Puts drizzle on a client. It would switch the client's dates to strings for hand-written statements too,
 * though its own columns read a Date as well, so the parsers are put back.
 */
function toDb(sql: Db['sql']): Db {
  const { parsers, serializers } = sql.options
  const kept = DATE_TYPES.map((type) => ({
    type,
    parse: parsers[type],
    serialize: serializers[type],
  }))
  const orm = drizzle({ client: sql })
  for (const { type, parse, serialize } of kept) {
    if (parse) parsers[type] = parse
    if (serialize) serializers[type] = serialize
  }
  return { sql, orm }
}
