import { createStripe } from '../billing/stripe/client.ts'
import type { Stripe, StripeDeps } from '../billing/stripe/client.ts'
import { refusalOf } from '../billing/stripe/refusal.ts'
import type { Deps } from './deps.ts'
import { ApiError } from './errors.ts'

interface StripeEnv {
  STRIPE_SECRET_KEY?: string | undefined
  STRIPE_WEBHOOK_SECRET?: string | undefined
  STRIPE_API_BASE?: string | undefined
}

/** The Stripe side when both its secrets are set; undefined else. Costs nothing before its first use. */
export function createStripeDeps(
  env: StripeEnv,
  base: Pick<StripeDeps, 'db' | 'now' | 'log'>,
): StripeDeps | undefined {
  const {
    STRIPE_SECRET_KEY: secretKey,
    STRIPE_WEBHOOK_SECRET: secrets,
    STRIPE_API_BASE: apiBase,
  } = env
  if (secretKey === undefined || secrets === undefined) return undefined
  const webhookSecrets = secrets.split(',').map((secret) => secret.trim())
  let made: Stripe | undefined
  return {
    ...base,
    webhookSecrets,
    get stripe() {
      made ??= createStripe({
        secretKey,
        webhookSecrets,
        ...(apiBase === undefined ? {} : { apiBase }),
      })
      return made
    },
  }
}

/** @throws ApiError `not_configured` where Stripe is not set up */
export function requireStripe(deps: Deps): StripeDeps {
  if (deps.stripe === undefined) throw new ApiError('not_configured')
  return deps.stripe
}

/** Waits for a call that asks Stripe; its failure becomes one that a caller of ours understands. */
export async function askStripe<T>(deps: Deps, work: Promise<T>): Promise<T> {
  return work.catch((error: unknown) => {
    const refusal = refusalOf(error)
    if (refusal === null) throw error
    deps.log({ level: 'warn', event: 'stripe_call_failed', refusal, error: String(error) })
    throw new ApiError(refusal === 'unavailable' ? 'unavailable' : 'internal')
  })
}
