import { expect, test } from 'vitest'
import { migrateDatabase } from '../../db/migrate-cli.ts'
import { createTestDatabase } from '../support/database.ts'

test('functions are brought up to date when they have changed, and left alone when not', async () => {
  const database = await createTestDatabase()
  const { db, url } = database
  const bodyOf = async (): Promise<string | undefined> => {
    const rows = await db.sql<{ text: string }[]>`
      select prosrc as text from pg_proc where proname = 'month_start'`
    return rows[0]?.text
  }
  try {
    const body = await bodyOf()
    await db.sql`create or replace function month_start() returns timestamptz language sql stable
      as 'select now()'`
    await migrateDatabase(url)
    expect(await bodyOf()).toBe('select now()')
    await db.sql`update drizzle.functions set sha256 = 'of an older version'`
    await Promise.all([migrateDatabase(url), migrateDatabase(url)])
    expect(await bodyOf()).toBe(body)
    expect(await db.sql`select sha256 from drizzle.functions`).toHaveLength(2)
  } finally {
    await database.close()
  }
})
