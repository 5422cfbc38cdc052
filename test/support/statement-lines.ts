import type { Db } from '../../db/client.ts'
import { rewrite } from './statement-world.ts'

/**
 * Makes many usage lines of an org out of its first one, a hundred in a second from an instant on. They have no jobs:
 * what reads them joins none.
 */
export async function multiplyLines(
  db: Db,
  { orgId, from, count }: { orgId: string; from: string; count: number },
): Promise<void> {
  const step = 50_000
  for (let start = 0; start < count; start += step)
    await rewrite(
      db,
      ({ sql }) => sql`
      insert into usage_event (id, job_id, idx, org_id, team_id, key_id, sku_id, price_version_id, list_version_id,
                               list_micros, discount_micros, net_micros, occurred_at)
      select 'use_' || lpad(n::text, 26, '0') || '_0', 'job_' || lpad(n::text, 26, '0'), 0, org_id, team_id, key_id,
             sku_id, price_version_id, list_version_id, list_micros, 0, net_micros,
             ${from}::text::timestamptz + make_interval(secs => n / 100)
        from (select * from usage_event where org_id = ${orgId} order by occurred_at limit 1) first,
             generate_series(${start}::int, ${Math.min(count, start + step) - 1}::int) n`,
    )
  await db.sql`analyze usage_event`
}
