import type { Db } from './client.ts'
import { withTransaction } from './client.ts'
import { createId } from './ids.ts'
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

/** What is stored of a new key's text. */
export interface KeyHash {
  readonly keyId: string
  readonly hash: string
  readonly last4: string
}

/**
 * Makes a key like another one, which ends at `oldEndsAt` or earlier: same team, name, scopes, tags and limits, and
 * the same length of life. What the old one has spent and holds does not count on the new one's own limits.
 *
 * @returns false, and nothing made, when the key has been revoked or has expired, or is not there
 */
export async function rotateKey(
  db: Db,
  input: { keyId: string; oldEndsAt: Date; replacement: KeyHash },
): Promise<boolean> {
  const { keyId, oldEndsAt, replacement } = input
  return await withTransaction(db, async (tx) => {
    const made = await tx.sql`
      insert into api_key (id, org_id, team_id, name, env, hash, last4, scopes, tags, requests_per_minute, expires_at)
      select ${replacement.keyId}, org_id, team_id, name, env, ${replacement.hash}, ${replacement.last4}, scopes, tags,
             requests_per_minute, now() + (expires_at - created_at)
        from api_key where id = ${keyId} and revoked_at is null and (expires_at is null or expires_at > now())
         for no key update
      returning id`
    if (made.length === 0) return false
    await tx.sql`
      insert into budget (id, scope, scope_id, kind, period_start, limit_micros, day_limit_micros, month_limit_micros,
                          max_inflight, soft_bp)
      select ${createId('budget')}, scope, ${replacement.keyId}, kind, period_start,
             coalesce(limit_next_micros, limit_micros), day_limit_micros,
             month_limit_micros, max_inflight, soft_bp
        from budget where scope = 'key' and scope_id = ${keyId} and kind = 'balance'`
    await tx.sql`
      update api_key set expires_at = least(expires_at, ${oldEndsAt}) where id = ${keyId}`
    return true
  })
}

/** A key as its owner may see it. */
export interface KeyRow {
  readonly id: string
  readonly orgId: string
  readonly teamId: string
  readonly name: string
  readonly env: 'live' | 'test'
  readonly last4: string
  readonly scopes: readonly string[]
  readonly tags: Readonly<Record<string, string>>
  readonly state: 'active' | 'revoked' | 'expired'
  readonly createdAt: Date
  readonly expiresAt: Date | null
}

/** The keys of an org, or the one with this id, oldest first; revoked and expired ones included. */
export async function listKeys(
  db: Db,
  filter: { orgId: string } | { keyId: string },
): Promise<KeyRow[]> {
  const condition =
    'orgId' in filter ? db.sql`org_id = ${filter.orgId}` : db.sql`id = ${filter.keyId}`
  return await db.sql<KeyRow[]>`
    select id, org_id as "orgId", team_id as "teamId", name, env, last4, scopes, tags,
           case when revoked_at is not null then 'revoked' when expires_at <= now() then 'expired'
                else 'active' end as state,
           created_at as "createdAt", expires_at as "expiresAt"
      from api_key where ${condition} order by id`
}

async function findKey(db: Db, condition: ReturnType<Db['sql']>): Promise<KeyPrincipal | null> {
  const [row] = await db.sql<KeyPrincipal[]>`
    select id as "keyId", org_id as "orgId", team_id as "teamId", scopes, hash,
           requests_per_minute as "requestsPerMinute", expires_at as "expiresAt",
           revoked_at as "revokedAt"
      from api_key where ${condition}`
  return row ?? null
}
