import { closeDatabase, openDatabase } from '../../db/client.ts'
import { createSqsQueue } from '../enqueue.ts'
import { metricPlace, parseNodeEnv, queuePlace, queueUrls } from '../env.ts'
import { createFleetPublisher } from '../fleet-metrics.ts'
import { observeQueue } from '../observe-calls.ts'
import { startSpan, traceFields } from '../spans.ts'
import { createStripeDeps } from '../stripe.ts'
import { openTracing } from './exporting.ts'
import { openMetrics } from './observing.ts'
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
  console.log(JSON.stringify({ time: new Date().toISOString(), ...traceFields(), ...entry }))
}

async function main(): Promise<void> {
  const env = parseNodeEnv(process.env)
  const tracing = await openTracing(env, { serviceName: 'glyphpress-sweep', log })
  const db = openDatabase(env.DATABASE_URL, {
    maxConnections: MAX_CONNECTIONS,
    applicationName: 'glyphpress-sweep',
  })
  const { metrics, ...figures } = await openMetrics(env, { pool: db, isSweeping: true, log })
  const allowLoopbackWebhooks = env.WEBHOOK_ALLOW_LOOPBACK === '1'
  const sender = createNodeWebhookSender({ allowLoopback: allowLoopbackWebhooks })
  const now = () => new Date()
  const stripe = createStripeDeps(env, { db, now, log })
  const fleet = metricPlace(env)
  const sqs = createSqsQueue(db, { ...queueUrls(env), ...queuePlace(env) })
  const sweep = startSweepLoop(
    {
      db,
      now,
      allowLoopbackWebhooks,
      sendWebhook: sender.send,
      pepper: env.KEY_PEPPER,
      previousPepper: env.KEY_PEPPER_PREVIOUS,
      queue: observeQueue(sqs, { startSpan, ...(metrics && { metrics }) }),
      objects: createObjects(env),
      ...(stripe === undefined ? {} : { stripe }),
      ...(fleet === null ? {} : { publishFleet: createFleetPublisher(fleet) }),
      log,
      startSpan,
      ...(metrics && { metrics }),
    },
    (part, error) => log({ level: 'warn', event: 'sweep_failed', part, error: String(error) }),
  )
  log({ level: 'info', event: 'sweeping' })
  const end = async () => {
    setTimeout(() => process.exit(1), EXIT_AFTER_MS).unref()
    await sweep.stop(sender.close)
    await sender.close()
    figures.close()
    await tracing?.stop()
    await closeDatabase(db)
    process.exit(0)
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void end())
}

if (process.argv.includes('--help')) {
  console.log(HELP)
} else {
  try {
    await main()
  } catch (error) {
    console.error(error instanceof Error ? error.message : String(error))
    process.exit(1)
  }
}
