import { readNodeEnv } from './node/env.ts'
import { openTracing } from './node/exporting.ts'
import { startGateway } from './node/server.ts'
import type { Gateway } from './node/server.ts'
import { traceFields } from './spans.ts'

/**
 * From the signal to the end of the process, whatever hangs. An orderly stop takes at most four seconds and a half;
 * containers are killed after ten and the parts of `npm start` after six.
 */
const EXIT_AFTER_MS = 5_000

/** One JSON line per event on standard output. */
function log(entry: Record<string, unknown>): void {
  console.log(JSON.stringify({ time: new Date().toISOString(), ...traceFields(), ...entry }))
}

// A rejection that nobody awaits is a bug of one piece of work. What that work was about is in the database and
// comes up again; ending the process would break the calls of everybody else. A thrown error that nobody caught
// still ends it: after that its memory cannot be trusted.
process.on('unhandledRejection', (reason) => {
  log({ level: 'error', event: 'unhandled_rejection', error: textOf(reason) })
})

try {
  const env = readNodeEnv()
  const tracing = await openTracing(env, { serviceName: 'glyphpress-gateway', log })
  const gateway = await startGateway(env, log)
  log({ level: 'info', event: 'listening', url: gateway.url })
  const stop = async () => {
    await gateway.stop()
    await tracing?.stop()
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => end({ stop }))
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  // What had started already, the sweep above all, would go on without a door.
  process.exit(1)
}

function end(gateway: Pick<Gateway, 'stop'>): void {
  setTimeout(() => {
    log({ level: 'error', event: 'stop_timed_out', after_ms: EXIT_AFTER_MS })
    process.exit(1)
  }, EXIT_AFTER_MS)
  gateway.stop().then(
    () => process.exit(0),
    (error: unknown) => {
      log({ level: 'error', event: 'stop_failed', error: textOf(error) })
      process.exit(1)
    },
  )
}

function textOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error)
}
