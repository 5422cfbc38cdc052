import { failureOf } from './client.ts'

/** Whether an error is Stripe's own, and what it means to a caller of our API; null = not Stripe's. */
export function refusalOf(error: unknown): 'unavailable' | 'misconfigured' | null {
  try {
    const { kind } = failureOf(error)
    return kind === 'misconfigured' || kind === 'rejected' ? 'misconfigured' : 'unavailable'
  } catch {
    return null
  }
}
