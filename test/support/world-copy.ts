import { inject } from 'vitest'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import type { Db } from '../../db/client.ts'

/** Runs `work` on a copy of a database that nobody is connected to; the copy is dropped afterwards. */
export async function onCopy(
  source: string,
  work: (db: Db, url: string) => Promise<void>,
): Promise<void> {
  const admin = openDatabase(inject('databaseUrl'), { maxConnections: 1 })
  const name = `c_${process.pid}_${Math.random().toString(36).slice(2, 10)}`
  try {
    await admin.sql`create database ${admin.sql(name)} template ${admin.sql(new URL(source).pathname.slice(1))}`
    const url = new URL(source)
    url.pathname = `/${name}`
    const db = openDatabase(url.href, { maxConnections: 2 })
    try {
      await work(db, url.href)
    } finally {
      await closeDatabase(db)
      await admin.sql`drop database if exists ${admin.sql(name)} with (force)`
    }
  } finally {
    await closeDatabase(admin)
  }
}
