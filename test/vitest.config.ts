import { fileURLToPath } from 'node:url'

import { defineConfig } from 'vitest/config'

/** One run for everything; the database is started once and cloned per test file. */
export default defineConfig({
  test: {
    include: ['test/{unit,contract,fault,e2e}/**/*.test.ts'],
    root: fileURLToPath(new URL('..', import.meta.url)),
    globalSetup: ['test/support/global-setup.ts'],
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 90_000,
    hookTimeout: 120_000,
    // Many tests wait for real processes; on a machine that is busy with something else one may miss its time. A
    // mistake fails twice.
    retry: process.env.CI ? 1 : 0,
  },
})
