import type { Db } from '../db/client.ts'
import { UNBILLED_REASONS } from '../db/text-terms.ts'
import { formatUsd } from './money.ts'

/** What a receipt says: all that is needed to recompute a bill, and nothing of what the picture shows. */
export interface Receipt {
  readonly job: string
  /** The picture's place in its job; null when it stands for pictures that were not delivered. */
  readonly index: number | null
  readonly images: number
  readonly org: string
  readonly team: string
  readonly key: string
  readonly model: string
  readonly weights_hash: string | null
  readonly size: string
  readonly seed: number | null
  /** Of the picture's bytes, hexadecimal. */
  readonly sha256: string | null
  readonly billed: boolean
  readonly reason: string | null
  readonly sku: string | null
  readonly price_version: string | null
  readonly currency: 'USD'
  /** US dollars with six digits; net = list - discount, and promotional credit paid `credit` of net. */
  readonly list: string
  readonly discount: string
  readonly net: string
  readonly credit: string
  /** The picture's share of its job's time on the engine. */
  readonly gpu_seconds: number | null
  readonly occurred_at: string
}

interface Row {
  job_id: string
  idx: number | null
  org_id: string
  team_id: string
  key_id: string
  model: string
  width: number
  height: number
  seed: bigint | null
  sha256: string | null
  billed_reason: string | null
  sku_id: string | null
  price_version_id: string | null
  list_micros: bigint | null
  discount_micros: bigint | null
  net_micros: bigint | null
  credit_micros: bigint | null
  missing: number
  weights_hash: string | null
  gpu_seconds: number | null
  occurred_at: Date
}

/**
 * Receipts of a finished job of an org: one for each stored picture, and one for those that were not delivered.
 *
 * @returns null when the org has no such job, an empty list while it is unfinished
 */
export async function listJobReceipts(
  db: Db,
  input: { orgId: string; jobId: string },
): Promise<Receipt[] | null> {
  const found =
    await db.sql`select 1 from job where id = ${input.jobId} and org_id = ${input.orgId}`
  if (found.length === 0) return null
  const rows = await db.sql<Row[]>`
    select ${columns(db)}, j.finished_at as occurred_at
      from job j
      left join job_output o on o.job_id = j.id
      left join usage_event u on u.job_id = o.job_id and u.idx = o.idx
     where j.id = ${input.jobId} and j.org_id = ${input.orgId} and j.finished_at is not null
     order by o.idx`
  const [first] = rows
  if (!first) return []
  const delivered = rows.filter((row) => row.idx !== null).map(toReceipt)
  return first.missing === 0 ? delivered : [...delivered, toMissing(first)]
}

/**
 * A page of the receipts of an org's charged pictures, oldest first: the pages of a span are its bill.
 *
 * @param page.after the last usage line of the page before
 */
export async function listReceipts(
  db: Db,
  span: { orgId: string; from: Date; to: Date },
  page: { after?: string; limit: number },
): Promise<{ usageId: string; receipt: Receipt }[]> {
  const after = page.after ?? null
  const rows = await db.sql<(Row & { usage_id: string })[]>`
    select ${columns(db)}, u.id as usage_id, u.occurred_at
      from usage_event u
      join job j on j.id = u.job_id
      join job_output o on o.job_id = u.job_id and o.idx = u.idx
     where u.org_id = ${span.orgId} and u.occurred_at >= ${span.from} and u.occurred_at < ${span.to}
       and (${after}::text is null or (u.occurred_at, u.id) >
            (select occurred_at, id from usage_event where id = ${after} and org_id = ${span.orgId}))
     order by u.occurred_at, u.id limit ${page.limit}`
  return rows.map((row) => ({ usageId: row.usage_id, receipt: toReceipt(row) }))
}

function columns(db: Db) {
  return db.sql`
    j.id as job_id, o.idx, j.org_id, coalesce(u.team_id, j.team_id) as team_id, j.key_id, j.model,
    coalesce(o.width, j.width) as width, coalesce(o.height, j.height) as height, o.seed, o.sha256,
    coalesce(o.unbilled_reason, j.billed_reason) as billed_reason,
    u.sku_id, u.price_version_id, u.list_micros, u.discount_micros, u.net_micros, u.credit_micros,
    j.n - (select count(*) from job_output d where d.job_id = j.id)::int as missing,
    j.run_info->>'weights_hash' as weights_hash,
    (j.run_info->>'engine_seconds')::float8 /
      nullif((select count(*) from job_output d where d.job_id = j.id), 0) as gpu_seconds`
}

function toReceipt(row: Row): Receipt {
  const net = row.net_micros ?? 0n
  return {
    ...common(row),
    index: row.idx,
    images: 1,
    seed: row.seed === null ? null : Number(row.seed),
    sha256: row.sha256,
    billed: net > 0n,
    reason: row.billed_reason,
    sku: row.sku_id,
    price_version: row.price_version_id,
    list: formatUsd(row.list_micros ?? 0n),
    discount: formatUsd(row.discount_micros ?? 0n),
    net: formatUsd(net),
    credit: formatUsd(row.credit_micros ?? 0n),
    gpu_seconds: row.gpu_seconds === null ? null : Math.round(row.gpu_seconds * 1000) / 1000,
  }
}

/** Pictures that were asked for and not delivered: nothing is charged, and the reason is stated. */
function toMissing(row: Row): Receipt {
  const nothing = formatUsd(0n)
  return {
    ...common(row),
    index: null,
    images: row.missing,
    seed: null,
    sha256: null,
    billed: false,
    // What speaks of the texts of pictures speaks of those that are there.
    reason: UNBILLED_REASONS.some((reason) => reason === row.billed_reason)
      ? 'partial'
      : row.billed_reason,
    sku: null,
    price_version: null,
    list: nothing,
    discount: nothing,
    net: nothing,
    credit: nothing,
    gpu_seconds: null,
  }
}

function common(row: Row) {
  return {
    job: row.job_id,
    org: row.org_id,
    team: row.team_id,
    key: row.key_id,
    model: row.model,
    weights_hash: row.weights_hash,
    size: `${row.width}x${row.height}`,
    currency: 'USD' as const,
    occurred_at: row.occurred_at.toISOString(),
  }
}
