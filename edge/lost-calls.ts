/**
 * Remembers calls whose caller never heard of the job: it hung up, or the answer was an error of ours. Clients
 * repeat such a call by themselves, most of them without a mark, and would pay for a second picture; the repeat
 * takes up the first job instead. Of a job that is remembered nobody may know whether it was made.
 */
export interface LostCalls {
  /** Notes the job, or the id that it would have, of a call that its caller will make again. */
  lose(call: { keyId: string; requestHash: string; jobId: string }): void
  /** The job of an equal call that was lost a moment ago, handed out once; null when there is none. */
  reclaim(keyId: string, requestHash: string): string | null
  /** Whether a call of this key was lost a moment ago and not handed out yet. */
  has(keyId: string): boolean
}

/** Clients repeat within ten seconds; a deliberate second order of the same comes later. */
const WINDOW_MS = 20_000
/** About 2 MB at the most. */
const MAX_LOST_CALLS = 5_000

/** Keeps lost calls in memory: of this process on Node, of this isolate on Workers. */
export function createLostCalls(now: () => Date): LostCalls {
  const calls = new Map<string, { jobId: string; until: number }>()
  return {
    lose({ keyId, requestHash, jobId }) {
      const oldest = calls.keys().next()
      if (calls.size >= MAX_LOST_CALLS && !oldest.done) calls.delete(oldest.value)
      calls.set(`${keyId} ${requestHash}`, { jobId, until: now().getTime() + WINDOW_MS })
    },
    reclaim(keyId, requestHash) {
      const id = `${keyId} ${requestHash}`
      const call = calls.get(id)
      calls.delete(id)
      return call && call.until > now().getTime() ? call.jobId : null
    },
    has(keyId) {
      const at = now().getTime()
      return [...calls].some(([id, { until }]) => until > at && id.startsWith(`${keyId} `))
    },
  }
}
