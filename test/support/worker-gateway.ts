import { fileURLToPath } from 'node:url'

import { unstable_startWorker } from 'wrangler'

/** Keeps the tool from looking for a network or writing outside the project. */
const QUIET = {
  CLOUDFLARE_CF_FETCH_ENABLED: 'false',
  CLOUDFLARE_TELEMETRY_DISABLED: '1',
  WRANGLER_SEND_METRICS: 'false',
  WRANGLER_SEND_ERROR_REPORTS: 'false',
  WRANGLER_HIDE_BANNER: 'true',
}

/** The Worker as wrangler bundles it, in a real workerd on a free loopback port. */
export async function startWorkerGateway(
  vars: Record<string, string>,
  options: { shieldLimit?: number } = {},
): Promise<{ url: string; stop(): Promise<void> }> {
  Object.assign(process.env, QUIET)
  const worker = await unstable_startWorker({
    config: fileURLToPath(new URL('../../wrangler.toml', import.meta.url)),
    bindings: {
      ...Object.fromEntries(
        Object.entries(vars).map(([name, value]) => [name, { type: 'plain_text' as const, value }]),
      ),
      ...(options.shieldLimit === undefined
        ? {}
        : {
            SHIELD: {
              type: 'ratelimit' as const,
              namespace_id: '1001',
              simple: { limit: options.shieldLimit, period: 10 as const },
            },
          }),
    },
    dev: {
      server: { hostname: '127.0.0.1', port: 0 },
      inspector: false,
      watch: false,
      persist: false,
      logLevel: 'error',
    },
  })
  await worker.ready
  const { origin } = new URL(String(await worker.url))
  return { url: origin, stop: () => worker.dispose() }
}
