import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

/** The only user of an embedded cluster. */
export const LOCAL_USER = 'glyphpress'

/** The maintenance database of an embedded server. */
export function localDatabaseUrl(server: { port: number; password: string }): string {
  return `postgres://${LOCAL_USER}:${server.password}@127.0.0.1:${server.port}/postgres`
}

/**
 * The port of the server on a cluster, as the server itself wrote it down; null when none has begun or the last one
 * has ended in order. After a kill the port may be free, or anybody's.
 */
export async function findServerPort(dataDir: string): Promise<number | null> {
  const text = await readFile(join(dataDir, 'postmaster.pid'), 'utf8').catch(
    (error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return ''
      throw error
    },
  )
  const port = Number(text.split('\n')[3])
  return Number.isInteger(port) && port > 0 ? port : null
}
