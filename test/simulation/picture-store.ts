import { objectKeyOf } from '../../gpu-worker/store.ts'
import type { PictureStore } from '../../gpu-worker/store.ts'
import type { FaultLedger } from './fault-ledger.ts'
import type { Life } from './life.ts'
import type { Random } from './random.ts'

/** Objects by key, with the checksum of their bytes. What lies here was really stored, whatever the product says. */
export type StoredPictures = Map<string, { jobId: string; idx: number; sha256: string }>

/** How likely each kind is at one call. */
const RATES = { refused: 0.04, 'answer lost': 0.04, 'killed after storing': 0.05 } as const

/** A worker's door to the store in memory. */
export function createPictureStore(input: {
  pictures: StoredPictures
  life: Life
  random: Random
  ledger: FaultLedger
  isQuiet: () => boolean
}): PictureStore {
  const { pictures, life, random, ledger, isQuiet } = input
  const strikes = (kind: keyof typeof RATES) => {
    const isStruck = !isQuiet() && random.chance(RATES[kind])
    if (isStruck) ledger.note('object store', kind)
    return isStruck
  }
  return {
    put(picture) {
      life.step()
      if (strikes('refused')) return Promise.reject(new Error('the store is full'))
      const key = objectKeyOf(picture)
      const { jobId, idx, sha256 } = picture
      pictures.set(key, { jobId, idx, sha256 })
      if (strikes('killed after storing')) {
        life.end()
        return Promise.reject(new Error('killed'))
      }
      if (strikes('answer lost')) return Promise.reject(new Error('the store does not answer'))
      return Promise.resolve(key)
    },
    remove(key) {
      life.step()
      pictures.delete(key)
      return Promise.resolve()
    },
    // No job here has pictures to work from.
    readInput: () => Promise.resolve(null),
    removeInput: () => Promise.resolve(),
  }
}
