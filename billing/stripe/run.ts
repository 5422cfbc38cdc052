import { resolveAutoTopups, startDueAutoTopups } from './auto-topup.ts'
import type { StripeDeps } from './client.ts'
import { applyDueEvents } from './events.ts'
import { checkDrafts } from './invoice.ts'
import { reconcileDue } from './reconcile.ts'
import { sealDue } from './seal.ts'
import { sendDue } from './send.ts'
import { syncStaleCheckouts } from './topup.ts'

/** Bounds of one call; what is left is due again at the next. */
const EVENT_LIMIT = 50
const TOPUP_LIMIT = 20
const SEND_LIMIT = 400
const RECONCILE_LIMIT = 500
const DRAFT_LIMIT = 50

/**
 * Does once all that is due with Stripe, in the order of need: news first, then what is told, then comparisons. A
 * part that fails stops no other.
 *
 * @returns how much was done
 * @throws the first error, after every part had its turn
 */
export async function runStripe(deps: StripeDeps): Promise<number> {
  const parts: (() => Promise<number>)[] = [
    () => applyDueEvents(deps, { limit: EVENT_LIMIT }),
    () => startDueAutoTopups(deps, { limit: TOPUP_LIMIT }),
    () => resolveAutoTopups(deps, { limit: TOPUP_LIMIT }),
    () => syncStaleCheckouts(deps, { limit: TOPUP_LIMIT }),
    () => sealDue(deps),
    () => sendDue(deps, { limit: SEND_LIMIT }),
    () => reconcileDue(deps, { limit: RECONCILE_LIMIT }),
    () => checkDrafts(deps, { limit: DRAFT_LIMIT }),
  ]
  let done = 0
  const errors: Error[] = []
  for (const part of parts) {
    try {
      done += await part()
    } catch (error) {
      errors.push(error instanceof Error ? error : new Error('a part failed', { cause: error }))
    }
  }
  const [first] = errors
  if (first !== undefined) throw first
  return done
}
