import { sql } from 'drizzle-orm'
import { check, index, integer, pgTable, text, timestamp, uniqueIndex } from 'drizzle-orm/pg-core'
import { org, team } from './org.ts'

/**
 * An API key. Only its HMAC (hex, keyed by the server's pepper) is stored, so a copy of the database
 * cannot confirm a guess. The Z.ai form `id.secret` is derived from the same hash and pepper. Which pepper
 * that was is not stored: at a rotation both are tried, and `created_at` tells old keys from new ones.
 */
export const apiKey = pgTable(
  'api_key',
  {
    id: text().primaryKey(),
    orgId: text('org_id')
      .notNull()
      .references(() => org.id),
    teamId: text('team_id')
      .notNull()
      .references(() => team.id),
    name: text().notNull(),
    /** Part of the key's text, for its owner's eyes: keys of both kinds draw and are charged alike. */
    env: text({ enum: ['live', 'test'] }).notNull(),
    hash: text().notNull(),
    last4: text().notNull(),
    scopes: text().array().notNull(),
    /** Requests per minute that this key may make; null = the gateway's default. */
    requestsPerMinute: integer('requests_per_minute'),
    createdAt: timestamp('created_at', { withTimezone: true }).notNull().defaultNow(),
    expiresAt: timestamp('expires_at', { withTimezone: true }),
    revokedAt: timestamp('revoked_at', { withTimezone: true }),
  },
  (t) => [
    uniqueIndex('api_key_hash_once').on(t.hash),
    index('api_key_by_org').on(t.orgId),
    check('api_key_env_known', sql`${t.env} in ('live', 'test')`),
  ],
)
