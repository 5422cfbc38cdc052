import type { Db } from '../db/client.ts'
import type { UsageSpan } from './usage.ts'

export const USAGE_GROUPS = ['team', 'key', 'sku', 'size'] as const
export type UsageDimension = (typeof USAGE_GROUPS)[number]
export type UsageBucketSize = 'hour' | 'day' | 'month'

/** Images and money of one combination of the asked dimensions; null in those that were not asked for. */
export interface UsageRow {
  readonly bucket: Date | null
  readonly teamId: string | null
  readonly keyId: string | null
  readonly skuId: string | null
  readonly size: string | null
  readonly images: bigint
  readonly listMicros: bigint
  readonly discountMicros: bigint
  readonly netMicros: bigint
  readonly creditMicros: bigint
}

/**
 * Sums of an org's charged pictures by any dimensions and UTC buckets, in ascending order. Groups without usage are
 * left out; all rows of a span add up to its usage lines.
 *
 * @param input.limit rows at most; ask for one more than is allowed to see whether there are more
 */
export async function reportUsage(
  db: Db,
  span: UsageSpan,
  input: { groups: readonly UsageDimension[]; bucket: UsageBucketSize | null; limit: number },
): Promise<UsageRow[]> {
  const has = (group: UsageDimension) => input.groups.includes(group)
  const none = db.sql`null::text`
  const bucket =
    input.bucket === null
      ? db.sql`null::timestamptz`
      : db.sql`date_trunc(${input.bucket}::text, u.occurred_at, 'UTC')`
  // sum() of bigint is numeric; nine trillion dollars are below its cast's end.
  return await db.sql<UsageRow[]>`
    select ${bucket} as bucket,
           ${has('team') ? db.sql`u.team_id` : none} as "teamId",
           ${has('key') ? db.sql`u.key_id` : none} as "keyId",
           ${has('sku') ? db.sql`u.sku_id` : none} as "skuId",
           ${has('size') ? db.sql`j.width || 'x' || j.height` : none} as size,
           count(*) as images, sum(u.list_micros)::bigint as "listMicros",
           sum(u.discount_micros)::bigint as "discountMicros", sum(u.net_micros)::bigint as "netMicros",
           sum(u.credit_micros)::bigint as "creditMicros"
      from usage_event u ${has('size') ? db.sql`join job j on j.id = u.job_id` : db.sql``}
     where u.org_id = ${span.orgId} and u.occurred_at >= ${span.from} and u.occurred_at < ${span.to}
     group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5 limit ${input.limit}`
}
