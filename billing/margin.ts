import type { Db } from '../db/client.ts'
import { priceOf } from './money.ts'

export const MARGIN_GROUPS = ['org', 'team', 'size', 'worker', 'model'] as const
export type MarginGroup = (typeof MARGIN_GROUPS)[number]

/** What a group of finished jobs brought and cost. Amounts in micro-USD. */
export interface MarginRow {
  readonly group: string
  readonly jobs: bigint
  /** Delivered pictures, charged or not. */
  readonly images: bigint
  /** Of these, the pictures that a text guarantee made free: what it costs is their share of `cost`. */
  readonly freeImages: bigint
  /** Time on the engine, in milliseconds; the attempts that failed before are not in it. */
  readonly gpuMs: bigint
  /** Net of discounts and refunds; what promotional credit paid is a cost of selling and counts as revenue here. */
  readonly revenueMicros: bigint
  readonly costMicros: bigint
  readonly marginMicros: bigint
}

const MS_PER_HOUR = 3_600_000n

/**
 * GPU time, cost and margin of the jobs that finished in a span, by group in ascending order.
 *
 * @param input.gpuHourMicros what an hour of a GPU costs; idle time is not in the figures
 */
export async function reportMargin(
  db: Db,
  input: { from: Date; to: Date; by: MarginGroup; gpuHourMicros: bigint },
): Promise<MarginRow[]> {
  const group = {
    org: db.sql`j.org_id`,
    team: db.sql`j.team_id`,
    size: db.sql`j.width || 'x' || j.height`,
    worker: db.sql`coalesce(j.worker_id, 'none')`,
    model: db.sql`j.model`,
  }[input.by]
  const rows = await db.sql<Omit<MarginRow, 'costMicros' | 'marginMicros'>[]>`
    select ${group} as "group", count(*) as jobs, coalesce(sum(o.images), 0)::bigint as images,
           coalesce(sum(o.free), 0)::bigint as "freeImages",
           coalesce(sum(round((j.run_info->>'engine_seconds')::numeric * 1000)), 0)::bigint as "gpuMs",
           coalesce(sum(m.net), 0)::bigint as "revenueMicros"
      from job j
      left join lateral (select count(*) as images, count(o.unbilled_reason) as free
                           from job_output o where o.job_id = j.id) o on true
      left join lateral (
        select sum(u.net_micros + coalesce((select sum(c.net_micros) from usage_correction c
                                             where c.usage_event_id = u.id and c.reason = 'refund'), 0)) as net
          from usage_event u where u.job_id = j.id) m on true
     where j.finished_at >= ${input.from} and j.finished_at < ${input.to}
     group by 1 order by 1`
  return rows.map((row) => {
    const costMicros = priceOf(input.gpuHourMicros, MS_PER_HOUR, row.gpuMs)
    return { ...row, costMicros, marginMicros: row.revenueMicros - costMicros }
  })
}
