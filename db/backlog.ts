import type { Db } from './client.ts'

export interface BacklogGroup {
  /** `running` is what a live worker holds; the job of a dead one waits. */
  phase: 'waiting' | 'running'
  priority: 'standard' | 'batch'
  /** How many of the given bounds a picture's pixels are above. */
  sizeClass: number
  jobs: number
  /** Still to be made. */
  images: number
}

export interface Backlog {
  groups: BacklogGroup[]
  /** Of the standard jobs that no worker has ever begun; 0 when there is none. */
  oldestWaitSeconds: number
  /** That hold at least one job. */
  busyWorkers: number
  /** There are more open jobs than were read; the oldest are in. */
  isPartial: boolean
}

type BacklogRow = BacklogGroup & { oldest: number | null; seen: number; busy: number }

/**
 * Counts the open jobs by who has them and how big their pictures are, in one statement that reads at most `limit`
 * jobs, the oldest, by the index of unfinished ones. What has passed its deadline is no work any more.
 *
 * @param input.classBounds ascending, in pixels; what is at a bound belongs below it
 */
export async function readBacklog(
  db: Db,
  input: { classBounds: readonly number[]; limit: number },
): Promise<Backlog> {
  const rows = await db.sql<BacklogRow[]>`
    with open as (
      select id, n, attempt, worker_id, width::bigint * height as pixels, priority, started_at, created_at, deadline_at,
             case when state = 'running' and lease_until > now() then 'running' else 'waiting' end as phase
        from job where finished_at is null
       order by created_at limit ${input.limit}::int
    ), counted as (
      select phase, priority, started_at, created_at, deadline_at > now() as is_wanted,
             -- Bounds are inclusive above, while a bucket begins at its bound.
             width_bucket(pixels - 1, ${input.classBounds}::bigint[]) as size_class,
             n - case when attempt = 0 then 0
                      else (select count(*) from job_output o where o.job_id = open.id) end as missing
        from open
    )
    select phase, priority, size_class as "sizeClass",
           (count(*) filter (where is_wanted))::int as jobs,
           coalesce(sum(missing) filter (where is_wanted), 0)::int as images,
           extract(epoch from now() - min(created_at) filter (
             where is_wanted and phase = 'waiting' and priority = 'standard' and started_at is null))::float8 as oldest,
           count(*)::int as seen,
           (select count(distinct worker_id) from open where phase = 'running')::int as busy
      from counted group by 1, 2, 3 order by 1, 2, 3`
  const seen = rows.reduce((sum, row) => sum + row.seen, 0)
  return {
    groups: rows
      .filter(({ jobs }) => jobs > 0)
      .map(({ phase, priority, sizeClass, jobs, images }) => {
        return { phase, priority, sizeClass, jobs, images }
      }),
    oldestWaitSeconds: Math.max(0, ...rows.map(({ oldest }) => oldest ?? 0)),
    busyWorkers: rows[0]?.busy ?? 0,
    isPartial: seen >= input.limit,
  }
}
