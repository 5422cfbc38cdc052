import type { Db } from '../db/client.ts'

export type CreditKind = 'paid' | 'promo'

const DEFAULT_PRIORITY = 50

/**
 * Adds credit to an org and posts it, once per source. Safe to repeat.
 *
 * Prepaid orgs buy credit (`paid`) and can spend no more than they have; promotional credit (`promo`) can go to
 * postpaid ones too, where it lowers what they owe.
 *
 * @param input.sourceId what it came from, such as a payment id; unique for ever
 * @param input.priority credit with a low number is spent first, then what expires first, then what is oldest
 * @returns false when this source was granted before: the same amount to the same org
 * @throws with SQLSTATE `GP409`, and nothing granted, when the org has no such credit or is not there, the amount is not
 *   positive, or the source was granted to another org or with another amount
 */
export async function grantCredit(
  db: Db,
  input: {
    orgId: string
    amountMicros: bigint
    sourceId: string
    kind?: CreditKind
    priority?: number
    expiresAt?: Date | null
  },
): Promise<boolean> {
  const [row] = await db.sql<{ granted: boolean }[]>`
    select grant_credit(${input.orgId}, ${input.amountMicros}::bigint, ${input.sourceId},
                        ${input.kind ?? 'paid'}, ${input.priority ?? DEFAULT_PRIORITY}, ${input.expiresAt ?? null}) as granted`
  return row?.granted ?? false
}

/** Credit of an org as it stands. Amounts in micro-USD. */
export interface CreditRow {
  readonly id: string
  readonly kind: CreditKind
  readonly amountMicros: bigint
  /** Not burned yet; what open holds count on is in it. */
  readonly remainingMicros: bigint
  readonly priority: number
  readonly sourceId: string
  readonly expiresAt: Date | null
  readonly createdAt: Date
}

/** All credit that an org was ever granted, oldest first. */
export async function listCredit(db: Db, orgId: string): Promise<CreditRow[]> {
  return await db.sql<CreditRow[]>`
    select id, kind, amount_micros as "amountMicros", remaining_micros as "remainingMicros", priority,
           source_id as "sourceId", expires_at as "expiresAt", created_at as "createdAt"
      from credit_grant where org_id = ${orgId} order by created_at, id`
}

/**
 * Ends credit past its expiry, as far as no open hold counts on it; what is held back ends at a later call. Safe to
 * run in several processes at once.
 *
 * @returns how much expired, in micro-USD
 */
export async function expireCredit(db: Db, input: { limit: number }): Promise<bigint> {
  const due = await db.sql<{ id: string }[]>`
    select id from credit_grant where remaining_micros > 0 and expires_at <= now()
     order by expires_at limit ${input.limit}`
  let expired = 0n
  for (const { id } of due) {
    const [row] = await db.sql<{ micros: bigint }[]>`select expire_grant(${id}) as micros`
    expired += row?.micros ?? 0n
  }
  return expired
}
