import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { migrateDatabase } from '../../db/migrate-cli.ts'
import { startPostgres } from '../../infra/local/postgres.ts'

/** A server with a migrated database that others are cloned from. */
export interface TemplateDatabase {
  /** Of the server's own database. */
  readonly url: string
  readonly templateName: string
  close(): Promise<void>
}

/**
 * Starts a PostgreSQL that is fast and keeps nothing, or takes the one at `ownUrl`, and migrates a template.
 *
 * Nothing here survives a crash of the server (fsync is off), so whoever kills it needs another.
 */
export async function openTemplateDatabase(ownUrl?: string): Promise<TemplateDatabase> {
  const folder = await mkdtemp(join(tmpdir(), 'glyphpress-test-'))
  // The server's own user has to pass through.
  await chmod(folder, 0o755)
  const server = ownUrl
    ? null
    : await startPostgres({
        dataDir: join(folder, 'pg'),
        password: 'test',
        isThrowaway: true,
        maxConnections: 400,
      })
  const url = ownUrl ?? server?.url ?? ''
  const templateName = `glyphpress_template_${process.pid}`
  const admin = openDatabase(url, { maxConnections: 1 })
  await admin.sql`create database ${admin.sql(templateName)}`
  await migrateDatabase(urlOf(url, templateName))
  return {
    url,
    templateName,
    async close() {
      await admin.sql`drop database ${admin.sql(templateName)}`
      await closeDatabase(admin)
      await server?.stop()
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** The same server, another database. */
export function urlOf(serverUrl: string, databaseName: string): string {
  const url = new URL(serverUrl)
  url.pathname = `/${databaseName}`
  return url.href
}

/** A fresh database of that name. Cloning takes an exclusive look at the template; another clone may be under way. */
export async function cloneDatabase(
  serverUrl: string,
  input: { template: string; name: string },
): Promise<{ url: string; drop: () => Promise<void> }> {
  const admin = openDatabase(serverUrl, { maxConnections: 1 })
  for (let attempt = 0; ; attempt++) {
    try {
      await admin.sql`create database ${admin.sql(input.name)} template ${admin.sql(input.template)}`
      break
    } catch (error) {
      if (attempt >= 50) throw error
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
  }
  return {
    url: urlOf(serverUrl, input.name),
    async drop() {
      await admin.sql`drop database if exists ${admin.sql(input.name)} with (force)`
      await closeDatabase(admin)
    },
  }
}
