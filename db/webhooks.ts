import { and, desc, eq, isNull } from 'drizzle-orm'
import type { Db } from './client.ts'
import { withTransaction } from './client.ts'
import { createId } from './ids.ts'
import { webhookEndpoint } from './schema/webhook.ts'

export type EndpointRow = typeof webhookEndpoint.$inferSelect

/** Every event is written once per endpoint; more than this is a mistake, not a need. */
export const MAX_ENDPOINTS = 20

/**
 * Registers an endpoint. The caller has checked the URL.
 *
 * @param input.eventTypes wanted types; empty means all
 * @returns null when the org has `MAX_ENDPOINTS` already
 */
export async function insertEndpoint(
  db: Db,
  input: { orgId: string; url: string; description: string | null; eventTypes: string[] },
): Promise<EndpointRow | null> {
  const id = createId('endpoint')
  const isInserted = await withTransaction(db, async (tx) => {
    // Those made at the same time are counted too. This lock does not stand in the way of new jobs.
    await tx.sql`select 1 from org where id = ${input.orgId} for no key update`
    const inserted = await tx.sql`
      insert into webhook_endpoint (id, org_id, url, description, event_types)
      select ${id}, ${input.orgId}, ${input.url}, ${input.description}::text, ${input.eventTypes}::text[]
       where (select count(*) from webhook_endpoint
               where org_id = ${input.orgId} and deleted_at is null) < ${MAX_ENDPOINTS}`
    return inserted.count === 1
  })
  return isInserted ? findEndpoint(db, { orgId: input.orgId, endpointId: id }) : null
}

/** The org's endpoints, newest first; at most `MAX_ENDPOINTS`. */
export function listEndpoints(db: Db, orgId: string): Promise<EndpointRow[]> {
  return db.orm
    .select()
    .from(webhookEndpoint)
    .where(and(eq(webhookEndpoint.orgId, orgId), isNull(webhookEndpoint.deletedAt)))
    .orderBy(desc(webhookEndpoint.id))
    .limit(MAX_ENDPOINTS)
}

/** An endpoint of this org, or null; a deleted one is not there. */
export async function findEndpoint(
  db: Db,
  input: { orgId: string; endpointId: string },
): Promise<EndpointRow | null> {
  const [row] = await db.orm.select().from(webhookEndpoint).where(ofOrg(input))
  return row ?? null
}

/**
 * Changes what is given and leaves the rest. Enabling clears the reason of a disabling and the memory of
 * failures; both enabling and a new URL end a pause. Deliveries under way use a new URL from their next
 * attempt on.
 *
 * @returns null when there is no such endpoint
 */
export async function updateEndpoint(
  db: Db,
  input: {
    orgId: string
    endpointId: string
    url?: string
    description?: string | null
    eventTypes?: string[]
    enabled?: boolean
  },
): Promise<EndpointRow | null> {
  const switched =
    input.enabled === undefined
      ? {}
      : {
          enabled: input.enabled,
          disabledReason: input.enabled ? null : 'by_request',
          failingSince: null,
          deferredUntil: null,
        }
  const [row] = await db.orm
    .update(webhookEndpoint)
    .set({
      // A statement that sets nothing is refused by the database; the id stays what it is.
      id: input.endpointId,
      // The pause was asked for by the receiver at the old address.
      ...(input.url === undefined ? {} : { url: input.url, deferredUntil: null }),
      ...(input.description === undefined ? {} : { description: input.description }),
      ...(input.eventTypes === undefined ? {} : { eventTypes: input.eventTypes }),
      ...switched,
    })
    .where(ofOrg(input))
    .returning()
  return row ?? null
}

/** Removes an endpoint; what is still to be delivered to it is canceled when it comes up. Safe to repeat. */
export async function deleteEndpoint(
  db: Db,
  input: { orgId: string; endpointId: string; at: Date },
): Promise<boolean> {
  const rows = await db.orm
    .update(webhookEndpoint)
    .set({ deletedAt: input.at, enabled: false })
    .where(ofOrg(input))
    .returning({ id: webhookEndpoint.id })
  return rows.length === 1
}

/**
 * Moves the endpoint to its next secret. Until `previousSecretUntil` messages are signed with the one
 * before too. A second rotation in that time ends the oldest secret at once.
 */
export async function rotateEndpointSecret(
  db: Db,
  input: { orgId: string; endpointId: string; previousSecretUntil: Date },
): Promise<EndpointRow | null> {
  const rows = await db.sql`
    update webhook_endpoint set secret_version = secret_version + 1,
           previous_secret_until = ${input.previousSecretUntil.toISOString()}::timestamptz
     where id = ${input.endpointId} and org_id = ${input.orgId} and deleted_at is null`
  return rows.count === 0 ? null : findEndpoint(db, input)
}

function ofOrg(input: { orgId: string; endpointId: string }) {
  return and(
    eq(webhookEndpoint.id, input.endpointId),
    eq(webhookEndpoint.orgId, input.orgId),
    isNull(webhookEndpoint.deletedAt),
  )
}
