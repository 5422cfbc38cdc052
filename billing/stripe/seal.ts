import type { StripeDeps } from './client.ts'

/** Windows are closed this long after their end: a charge that began in them has committed by then. */
export const SEAL_GRACE_SECONDS = 300
/** Windows that one call goes through; after an outage the next calls go on from there. */
const MAX_STEPS = 200
const HOUR_MS = 3_600_000

/**
 * Writes what is to be told to Stripe: for every hour that has closed the total of each metered org, for every month
 * that has closed the total of each other postpaid org, and a new revision wherever a total has changed since.
 * Safe to repeat and in several processes at once.
 *
 * @returns how many revisions were written
 */
export async function sealDue(deps: StripeDeps): Promise<number> {
  const now = deps.now()
  const closed = new Date(now.getTime() - SEAL_GRACE_SECONDS * 1000)
  return (
    (await sealMeter(deps, 'images', startOfHour(closed))) +
    (await sealMeter(deps, 'items', startOfMonth(closed)))
  )
}

/** Goes on window by window, so that no statement has more than one window of usage to look at. */
async function sealMeter(
  deps: StripeDeps,
  meter: 'images' | 'items',
  target: Date,
): Promise<number> {
  let sealed = 0
  for (let step = 0; step < MAX_STEPS; step++) {
    const [progress] = await deps.db.sql<{ sealedTo: Date }[]>`
      select sealed_to as "sealedTo" from seal_progress where meter = ${meter}`
    const next =
      progress === undefined || progress.sealedTo >= target
        ? target
        : earlier(target, meter === 'images' ? nextHour(progress.sealedTo) : target)
    const [row] = await deps.db.sql<{ sealed: number }[]>`
      select seal_due(${meter}, ${next}, ${deps.now()}) as sealed`
    sealed += row?.sealed ?? 0
    if (next >= target) break
  }
  return sealed
}

/** Looks at one window now and writes a revision if it must; `force` writes one with the same total. */
export async function sealWindow(
  deps: StripeDeps,
  window: { orgId: string; meter: 'images' | 'items'; hour: Date },
  force = false,
): Promise<boolean> {
  const [row] = await deps.db.sql<{ sealed: boolean }[]>`
    select seal_window(${window.orgId}, ${window.meter}, ${window.hour}, ${deps.now()}, ${force}) as sealed`
  return row?.sealed ?? false
}

export function startOfHour(date: Date): Date {
  return new Date(Math.floor(date.getTime() / HOUR_MS) * HOUR_MS)
}

export function startOfMonth(date: Date): Date {
  return new Date(Date.UTC(date.getUTCFullYear(), date.getUTCMonth(), 1))
}

function nextHour(date: Date): Date {
  return new Date(date.getTime() + HOUR_MS)
}

function earlier(a: Date, b: Date): Date {
  return a < b ? a : b
}
