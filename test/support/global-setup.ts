import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { migrateDatabase } from '../../db/migrate-cli.ts'
import { startPostgres } from '../../infra/local/postgres.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    databaseUrl: string
    templateName: string
  }
}

/**
 * Starts one PostgreSQL for the run (or takes TEST_DATABASE_URL) and migrates a template database that
 * each test file clones.
 */
export default async function setup(project: TestProject) {
  const own = process.env.TEST_DATABASE_URL
  const folder = await mkdtemp(join(tmpdir(), 'glyphpress-test-'))
  // The server's own user has to pass through.
  await chmod(folder, 0o755)
  const server = own
    ? null
    : await startPostgres({
        dataDir: join(folder, 'pg'),
        password: 'test',
        isThrowaway: true,
        maxConnections: 400,
      })
  const url = own ?? server?.url ?? ''
  const templateName = `glyphpress_template_${process.pid}`
  const admin = openDatabase(url, { maxConnections: 1 })
  await admin.sql`create database ${admin.sql(templateName)}`
  const templateUrl = new URL(url)
  templateUrl.pathname = `/${templateName}`
  await migrateDatabase(templateUrl.href)
  project.provide('databaseUrl', url)
  project.provide('templateName', templateName)
  return async () => {
    await admin.sql`drop database ${admin.sql(templateName)}`
    await closeDatabase(admin)
    await server?.stop()
    await rm(folder, { recursive: true, force: true })
  }
}
