import { isOutage } from '../../db/outage.ts'
import type { Journal } from './journal.ts'

/** Whether an error is what a fault of this simulation does to whoever calls; everything else is a finding. */
export function isExpected(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  if (isOutage(error)) return true
  if (/^killed$|^the (store|queue) /.test(error.message)) return true
  return error.constructor.name.startsWith('Stripe') || isExpected(error.cause)
}

/** Calls again while faults are to blame, as a caller does that has some patience; null when it has none left. */
export async function persist<T>(
  journal: Journal,
  what: string,
  work: () => Promise<T>,
  tries = 6,
): Promise<T | null> {
  for (let count = 0; count < tries; count++) {
    try {
      return await work()
    } catch (error) {
      if (!isExpected(error)) {
        journal.broken.push(`${what} failed with what no fault explains: ${textOf(error)}`)
        return null
      }
    }
  }
  return null
}

export function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  const code = 'code' in error ? ` (${String(error.code)})` : ''
  return `${error.message}${code}`
}
