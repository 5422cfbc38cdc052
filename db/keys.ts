import type { Db } from './client.ts'
import { withTransaction } from './client.ts'
import { insertBalance } from './orgs.ts'
import type { Limits } from './orgs.ts'

/** Who calls: the key and what it belongs to. */
export interface KeyPrincipal {
  readonly keyId: string
  readonly orgId: string
  readonly teamId: string
  readonly scopes: readonly string[]
  /** Hex HMAC of the key under the server's pepper of the time when it was made. */
  readonly hash: string
  readonly requestsPerMinute: number | null
  readonly expiresAt: Date | null
  readonly revokedAt: Date | null
}

/** Stores a key (its hash, never the key) with its balance row. */
export async function insertKey(
  db: Db,
  input: {
    keyId: string
    orgId: string
    teamId: string
    name: string
    env: 'live' | 'test'
    hash: string
    last4: string
    scopes: readonly string[]
    expiresAt?: Date | null
    requestsPerMinute?: number | null
  } & Limits,
): Promise<void> {
  await withTransaction(db, async (tx) => {
    await tx.sql`
      insert into api_key (id, org_id, team_id, name, env, hash, last4, scopes, expires_at,
                           requests_per_minute)
      values (${input.keyId}, ${input.orgId}, ${input.teamId}, ${input.name}, ${input.env}, ${input.hash},
              ${input.last4}, ${[...input.scopes]}, ${input.expiresAt ?? null},
              ${input.requestsPerMinute ?? null})`
    await insertBalance(tx, 'key', input.keyId, input)
  })
}

/** The key with one of these hashes (of one key under several peppers), revoked and expired ones included. */
export function findKeyByHash(db: Db, hashes: readonly string[]): Promise<KeyPrincipal | null> {
  return findKey(db, db.sql`hash in ${db.sql(hashes)}`)
}

/** The key with this id, revoked and expired ones included. */
export function findKeyById(db: Db, keyId: string): Promise<KeyPrincipal | null> {
  return findKey(db, db.sql`id = ${keyId}`)
}

/**
 * Revokes a key of this org for good: once this has returned, no job of the key is accepted. Waits for
 * reservations of the key that are under way. Safe to repeat; false when the org has no such key.
 */
export async function revokeKey(db: Db, input: { orgId: string; keyId: string }): Promise<boolean> {
  const [row] = await db.sql<{ revoked: boolean }[]>`
    select revoke_key(${input.orgId}, ${input.keyId}) as revoked`
  return row?.revoked ?? false
}

async function findKey(db: Db, condition: ReturnType<Db['sql']>): Promise<KeyPrincipal | null> {
  const [row] = await db.sql<KeyPrincipal[]>`
    select id as "keyId", org_id as "orgId", team_id as "teamId", scopes, hash,
           requests_per_minute as "requestsPerMinute", expires_at as "expiresAt",
           revoked_at as "revokedAt"
      from api_key where ${condition}`
  return row ?? null
}
