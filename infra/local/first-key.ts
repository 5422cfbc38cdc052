import { SCOPES, createApiKey } from '../../edge/api-key.ts'
import type { Db } from '../../db/client.ts'
import { createId } from '../../db/ids.ts'
import { insertKey } from '../../db/keys.ts'
import { createOrg, createTeam } from '../../db/orgs.ts'

/** The organisation of this machine's own keys: internal and without limits, so that the first call works. */
const NAME = 'Local'

/**
 * Makes a key when the database has none yet.
 *
 * @returns the key, which is stored as a hash only and must be shown now; null when there was one before
 */
export async function ensureFirstKey(db: Db, pepper: string): Promise<string | null> {
  const known = await db.sql`select 1 from api_key limit 1`
  return known.length > 0 ? null : await createLocalKey(db, pepper)
}

/**
 * Makes another key of this machine's own organisation. Not safe to repeat: each call makes one more.
 *
 * @returns the key, which is stored as a hash only and must be shown now
 */
export async function createLocalKey(db: Db, pepper: string): Promise<string> {
  const owner = (await findLocalTeam(db)) ?? (await createLocalTeam(db))
  const { key, hash, last4 } = await createApiKey(pepper, 'live')
  await insertKey(db, {
    ...owner,
    keyId: createId('key'),
    name: 'npm start',
    env: 'live',
    hash,
    last4,
    scopes: SCOPES,
  })
  return key
}

async function findLocalTeam(db: Db): Promise<{ orgId: string; teamId: string } | null> {
  const [team] = await db.sql<{ orgId: string; teamId: string }[]>`
    select t.org_id as "orgId", t.id as "teamId" from team t join org o on o.id = t.org_id
     where o.name = ${NAME} and o.kind = 'internal' order by t.id limit 1`
  return team ?? null
}

async function createLocalTeam(db: Db): Promise<{ orgId: string; teamId: string }> {
  const { orgId } = await createOrg(db, {
    name: NAME,
    kind: 'internal',
    settlementMode: 'internal',
  })
  const { teamId } = await createTeam(db, { orgId, name: NAME, costCentre: 'LOCAL' })
  return { orgId, teamId }
}
