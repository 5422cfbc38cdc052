import { readNodeEnv } from './node/env.ts'
import { startGateway } from './node/server.ts'

/** One JSON line per event on standard output. */
function log(entry: Record<string, unknown>): void {
  console.log(JSON.stringify({ time: new Date().toISOString(), ...entry }))
}

try {
  const gateway = await startGateway(readNodeEnv(), log)
  log({ level: 'info', event: 'listening', url: gateway.url })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      void gateway.stop().then(() => process.exit(0))
    })
  }
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exitCode = 1
}
