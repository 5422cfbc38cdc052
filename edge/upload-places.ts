import { ApiError } from './errors.ts'

/** Pictures that are being read, of each of which a process holds one or two in memory at a time. */
export interface UploadPlaces {
  /**
   * Reads pictures while a place is held for them.
   *
   * @throws ApiError when this org, or all together, have taken their places
   */
  hold<T>(orgId: string, work: () => Promise<T>): Promise<T>
}

/** Of one org in one process: slow uploads, however many, are its own trouble. */
const MAX_PLACES_PER_ORG = 4
const RETRY_AFTER_SECONDS = '2'

/** @param places of this process; each may take some 40 MB, twice the largest picture */
export function createUploadPlaces(places: number): UploadPlaces {
  const byOrg = new Map<string, number>()
  let taken = 0
  return {
    async hold(orgId, work) {
      const own = byOrg.get(orgId) ?? 0
      if (own >= MAX_PLACES_PER_ORG) {
        throw new ApiError('rate_limited', {
          message: `The organisation sends pictures in ${own} calls at the same time, and at most ${MAX_PLACES_PER_ORG} are taken.`,
          data: { reason: 'concurrency', scope: 'org', limit: MAX_PLACES_PER_ORG },
          headers: { 'retry-after': RETRY_AFTER_SECONDS },
        })
      }
      if (taken >= places) {
        throw new ApiError('unavailable', {
          message: 'Too many pictures are being sent at the moment; try again soon.',
          headers: { 'retry-after': RETRY_AFTER_SECONDS },
        })
      }
      taken += 1
      byOrg.set(orgId, own + 1)
      try {
        return await work()
      } finally {
        taken -= 1
        const left = (byOrg.get(orgId) ?? 1) - 1
        if (left === 0) byOrg.delete(orgId)
        else byOrg.set(orgId, left)
      }
    },
  }
}
