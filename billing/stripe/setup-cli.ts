import { parseArgs } from 'node:util'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { createStripe, failureOf } from './client.ts'
import { setUpStripe } from './setup.ts'
import { subscribe } from './subscription.ts'

const HELP = `npm run stripe:setup -- [--url https://host] [--subscribe org_... [--send-invoice]]

  Makes the product, meter, price (1.5 cents an image) and webhook endpoints that are not there yet.
  --url           the gateway's public origin (else PUBLIC_URL); without it no webhook endpoint is made
  --subscribe     puts this postpaid org on the metered price; needs DATABASE_URL
  --send-invoice  that org pays by invoice and not by card

  STRIPE_SECRET_KEY is needed; STRIPE_API_BASE names another address than Stripe's.`

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      url: { type: 'string' },
      subscribe: { type: 'string' },
      'send-invoice': { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  const {
    STRIPE_SECRET_KEY: secretKey,
    STRIPE_API_BASE: apiBase,
    PUBLIC_URL,
    DATABASE_URL,
  } = process.env
  if (values.help) return console.log(HELP)
  if (!secretKey) throw new Error('STRIPE_SECRET_KEY is not set.')
  const stripe = createStripe({ secretKey, webhookSecrets: [], ...(apiBase ? { apiBase } : {}) })
  const origin = values.url ?? PUBLIC_URL
  const webhookUrl = origin ? new URL('/stripe/webhook', origin).href : null
  const result = await setUpStripe(stripe, { webhookUrl })
  for (const { what, did, id } of result.steps) console.log(`${did.padEnd(8)} ${what}: ${id}`)
  if (webhookUrl === null) console.log('No webhook endpoint: give --url or PUBLIC_URL.')
  if (result.webhookSecrets.length > 0) {
    console.log('Shown only now; set it, or add it with a comma to what is set:')
    console.log(`STRIPE_WEBHOOK_SECRET=${result.webhookSecrets.join(',')}`)
  }
  if (values.subscribe === undefined) return
  if (!DATABASE_URL) throw new Error('DATABASE_URL is not set.')
  const db = openDatabase(DATABASE_URL, { maxConnections: 1 })
  try {
    const subscribed = await subscribe(
      { db, stripe, webhookSecrets: [], now: () => new Date(), log: console.log },
      {
        orgId: values.subscribe,
        collection: values['send-invoice'] ? 'send_invoice' : 'charge_automatically',
      },
    )
    if (!subscribed.ok) throw new Error('Only postpaid organisations have a metered price.')
    console.log(
      `${subscribed.isNew ? 'made' : 'found'}     subscription: ${subscribed.subscriptionId}`,
    )
  } finally {
    await closeDatabase(db)
  }
}

try {
  await main()
} catch (error) {
  console.error(toSentence(error))
  process.exitCode = 1
}

/** Stripe's own words where it refused something. */
function toSentence(error: unknown): string {
  try {
    return failureOf(error).message
  } catch {
    return error instanceof Error ? error.message : String(error)
  }
}
