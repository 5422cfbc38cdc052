import type { Db } from '../../db/client.ts'
import { createApiKey, zaiSecretOf } from '../../edge/api-key.ts'
import type { Limits } from '../../db/orgs.ts'
import { createBareTenant } from './jobs.ts'
import type { BareTenant } from './jobs.ts'
import { TEST_PEPPER } from './pepper.ts'

export interface Tenant extends BareTenant {
  apiKey: string
  /** The same key in Z.ai's form. */
  zaiKey: string
}

/** An org, a team and a key that works. */
export async function createTenant(
  db: Db,
  limits: { org?: Limits; team?: Limits; key?: Limits; scopes?: string[] } = {},
): Promise<Tenant> {
  const tenant = await createBareTenant(db, limits)
  const made = await createApiKey(TEST_PEPPER, 'test')
  const scopes = limits.scopes ?? ['generate', 'read', 'webhooks']
  await db.sql`
    update api_key set hash = ${made.hash}, last4 = ${made.last4}, scopes = ${scopes}
     where id = ${tenant.keyId}`
  const zaiKey = `${tenant.keyId}.${await zaiSecretOf(TEST_PEPPER, made.hash)}`
  return { ...tenant, apiKey: made.key, zaiKey }
}
