import { drizzle } from 'drizzle-orm/postgres-js'
import type { PostgresJsDatabase } from 'drizzle-orm/postgres-js'
import postgres from 'postgres'
import { ARRAY_TYPES } from './array-types.ts'
import { isConnectionLost } from './outage.ts'

/**
 * A database handle: `sql` for hand-written statements, `orm` for typed queries, one pool behind both. Read them
 * anew for each statement: a pool that fell silent is replaced.
 */
export interface Db {
  readonly sql: postgres.Sql<{ bigint: bigint }>
  readonly orm: PostgresJsDatabase
}

/** A handle that owns its connections. */
export interface Pool extends Db {
  /** Statements and transactions that run or wait for a connection, and how many connections there may be. */
  readonly use: { readonly calls: number; readonly maxConnections: number }
}

/** Opening a TCP connection to a database in the same region takes milliseconds; more means it is down. */
const CONNECT_TIMEOUT_SECONDS = 10
/** Of whoever does not say how many it needs. */
const MAX_CONNECTIONS = 10
/** The driver's own pause between tries to connect grows to 20 s, in which a database that is back goes unused. */
const MAX_RECONNECT_PAUSE_SECONDS = 1
/** Idle connections are given back so that a quiet process does not hold the server's slots. */
const IDLE_TIMEOUT_SECONDS = 60
/** No statement of ours is meant to run longer; the server ends it and frees its locks. */
const STATEMENT_TIMEOUT_MS = 10_000
/**
 * The server ends a slow statement and says so; when that word is half as much again overdue, the server or the
 * way to it is gone. TCP alone would wait a quarter of an hour for it.
 */
const SILENCE_FACTOR = 1.5
/** What answers still may do so before the rest of a silent pool is dropped. */
const DRAIN_SECONDS = 5

/**
 * Opens a pool. Connections are made on first use, so a wrong address shows at the first query.
 *
 * Every statement and every transaction ends within one and a half times `statementTimeoutMs`, whatever happens
 * to the network: then it fails with the code `CONNECTION_SILENT`, and later calls get new connections. Whether
 * the server did it is not known.
 *
 * int8 columns read by hand-written SQL arrive as bigint (money), never as a rounded number.
 *
 * @param url `postgres://user:password@host:port/database`
 */
export function openDatabase(
  url: string,
  options: { maxConnections?: number; applicationName?: string; statementTimeoutMs?: number } = {},
): Pool {
  const maxConnections = options.maxConnections ?? MAX_CONNECTIONS
  const use = { calls: 0, maxConnections }
  const statementTimeoutMs = options.statementTimeoutMs ?? STATEMENT_TIMEOUT_MS
  const open = (): Db => {
    const pool: Db['sql'] = postgres(url, {
      max: maxConnections,
      connect_timeout: CONNECT_TIMEOUT_SECONDS,
      backoff: (tries) => Math.min(2 ** tries / 100, MAX_RECONNECT_PAUSE_SECONDS),
      idle_timeout: IDLE_TIMEOUT_SECONDS,
      types: { bigint: postgres.BigInt, ...ARRAY_TYPES },
      // Asking each new connection for its array types costs a round trip, and nobody hears of that question's
      // failure: a connection that ends in its midst would end the process.
      fetch_types: false,
      connection: {
        application_name: options.applicationName ?? 'glyphpress',
        statement_timeout: statementTimeoutMs,
        // A client that vanished in the middle of a transaction must not keep its locks.
        idle_in_transaction_session_timeout: statementTimeoutMs,
      },
      onnotice: () => {},
    })
    const db = toDb(
      watch(pool, { deadlineMs: statementTimeoutMs * SILENCE_FACTOR, use }, () => {
        if (current === db) current = open()
        void pool.end({ timeout: DRAIN_SECONDS })
      }),
    )
    return db
  }
  let current = open()
  return {
    get sql() {
      return current.sql
    },
    get orm() {
      return current.orm
    },
    use,
  }
}

/** Waits a while for running queries, then closes every connection. Safe to repeat. */
export async function closeDatabase(
  db: Db,
  options: { timeoutSeconds?: number } = {},
): Promise<void> {
  await db.sql.end({ timeout: options.timeoutSeconds ?? DRAIN_SECONDS })
}

/**
 * Runs `work` in one transaction: committed when it resolves, rolled back when it throws. Statements of `tx` after
 * the transaction has ended, by a lost connection for one, throw.
 */
export async function withTransaction<T>(db: Db, work: (tx: Db) => Promise<T>): Promise<T> {
  const pool = db.sql
  let isOver = false
  try {
    const result = await pool.begin((sql) => {
      // The transaction's handle lacks only `options`, which drizzle reads; for statements it is the same.
      const whole = Object.assign(sql as unknown as Db['sql'], { options: pool.options })
      const guarded = intercept(whole, (make) => {
        if (isOver) throw connectionError('CONNECTION_CLOSED', 'the transaction has ended')
        return make()
      })
      return new Promise<{ value: T }>((resolve, reject) => {
        // With its connection gone `begin` rejects by itself. If this promise did too, postgres 3.4.9 would write
        // a rollback to the closed socket, which throws where nobody can catch it and ends the process.
        work(toDb(guarded)).then(
          (value) => {
            if (!isOver) resolve({ value })
          },
          (error: unknown) => {
            if (!isOver && !isConnectionLost(error)) reject(error)
          },
        )
      })
    })
    return result.value
  } finally {
    isOver = true
  }
}

function connectionError(code: string, message: string): Error {
  return Object.assign(new Error(message), { code })
}

/**
 * The same client with a deadline on the caller's side for each statement and each transaction, which are counted while
 * they last.
 *
 * @param onSilence called when a deadline passes, once for each call that was still waiting
 */
function watch(
  sql: Db['sql'],
  { deadlineMs, use }: { deadlineMs: number; use: { calls: number } },
  onSilence: () => void,
): Db['sql'] {
  const inTime = async <T>(work: Promise<T>): Promise<T> => {
    use.calls += 1
    let timer: ReturnType<typeof setTimeout> | undefined
    const late = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => {
        onSilence()
        const text = `the database has not answered for ${deadlineMs} ms`
        reject(connectionError('CONNECTION_SILENT', text))
      }, deadlineMs)
    })
    try {
      return await Promise.race([work, late])
    } finally {
      use.calls -= 1
      clearTimeout(timer)
    }
  }
  const watchStatement = (made: unknown): unknown => {
    if (!(made instanceof Promise)) return made
    // A statement runs when it is awaited; until then it may become a part of another one.
    const run = made.then.bind(made)
    let answer: Promise<unknown> | null = null
    const then: typeof run = (onValue, onError) => {
      answer ??= inTime(new Promise((resolve, reject) => void run(resolve, reject)))
      return answer.then(onValue, onError)
    }
    return Object.assign(made, { then })
  }
  return intercept(sql, (make, name) => {
    const made = make()
    return name === 'begin' && made instanceof Promise ? inTime(made) : watchStatement(made)
  })
}

/** The same client with `around` put around each call that makes a statement or a transaction. */
function intercept(
  sql: Db['sql'],
  around: (make: () => unknown, name: 'sql' | 'unsafe' | 'begin') => unknown,
): Db['sql'] {
  return new Proxy(sql, {
    apply: (target, self, input) => around(() => Reflect.apply(target, self, input), 'sql'),
    get(target, name) {
      const member: unknown = Reflect.get(target, name)
      if (typeof member !== 'function' || (name !== 'unsafe' && name !== 'begin')) return member
      return (...input: unknown[]) => around(() => Reflect.apply(member, target, input), name)
    },
  })
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
