import { closeDatabase, openDatabase } from '../../db/client.ts'
import { createSqsQueue } from '../enqueue.ts'
import { metricPlace, parseNodeEnv, queuePlace, queueUrls } from '../env.ts'
import { createFleetPublisher } from '../fleet-metrics.ts'
import { createStripeDeps } from '../stripe.ts'
import { createObjects } from './server.ts'
import { startSweepLoop } from './sweep-loop.ts'
import { createNodeWebhookSender } from './webhook-sender.ts'

const HELP = `npm run sweep [-- --help]

The work that is due, without a gateway: messages that were not sent, webhooks, jobs past their deadline, Stripe, figures
of the fleet. Every gateway does it too, unless SWEEP=0; any number at once do no harm. Reads the gateway's environment
(infra/environment.md).`

/** Every part runs one statement at a time, deliveries a few. */
const MAX_CONNECTIONS = 6
/** From the signal to the end of the process, whatever hangs. */
const EXIT_AFTER_MS = 5_000

function log(entry: Record<string, unknown>): void {
  console.log(JSON.stringify({ time: new Date().toISOString(), ...entry }))
}

function main(): void {
  const env = parseNodeEnv(process.env)
  const db = openDatabase(env.DATABASE_URL, {
    maxConnections: MAX_CONNECTIONS,
    applicationName: 'glyphpress-sweep',
  })
  const allowLoopbackWebhooks = env.WEBHOOK_ALLOW_LOOPBACK === '1'
  const sender = createNodeWebhookSender({ allowLoopback: allowLoopbackWebhooks })
  const now = () => new Date()
  const stripe = createStripeDeps(env, { db, now, log })
  const metrics = metricPlace(env)
  const sweep = startSweepLoop(
    {
      db,
      now,
      allowLoopbackWebhooks,
      sendWebhook: sender.send,
      pepper: env.KEY_PEPPER,
      previousPepper: env.KEY_PEPPER_PREVIOUS,
      queue: createSqsQueue(db, { ...queueUrls(env), ...queuePlace(env) }),
      objects: createObjects(env),
      ...(stripe === undefined ? {} : { stripe }),
      ...(metrics === null ? {} : { publishFleet: createFleetPublisher(metrics) }),
    },
    (part, error) => log({ level: 'warn', event: 'sweep_failed', part, error: String(error) }),
  )
  log({ level: 'info', event: 'sweeping' })
  const end = async () => {
    setTimeout(() => process.exit(1), EXIT_AFTER_MS).unref()
    await sweep.stop(sender.close)
    await sender.close()
    await closeDatabase(db)
    process.exit(0)
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void end())
}

if (process.argv.includes('--help')) {
  console.log(HELP)
} else {
  try {
    main()
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error))
    process.exit(1)
  }
}
