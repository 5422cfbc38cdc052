import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { openFloor } from '../support/floor.ts'
import type { Floor } from '../support/floor.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { killAll, spawnScript, until } from '../support/worker.ts'
import type { TestProcess } from '../support/worker.ts'

let floor: Floor
beforeAll(async () => {
  floor = await openFloor()
})
afterEach(() => killAll())
afterAll(() => floor.close())

function spawnPart(file: string, databaseUrl: string, env: Record<string, string> = {}) {
  return spawnScript(file, {
    env: {
      ...floor.queue.env,
      DATABASE_URL: databaseUrl,
      KEY_PEPPER: TEST_PEPPER,
      PUBLIC_URL: 'http://127.0.0.1:1',
      OBJECT_DIR: floor.objectDir,
      PORT: '0',
      ...env,
    },
  })
}

const said = (part: TestProcess, event: string) =>
  until(
    () => part.log.some((entry) => entry.event === event),
    () => `${event}:\n${part.output()}`,
  )

test('the sweep alone sends what a gateway without one left, and ends when it is told to', async () => {
  const url = floor.databaseUrl
  const gateway = spawnPart('edge/node.ts', url, { SWEEP: '0' })
  await said(gateway, 'listening')
  await floor.newJob()
  await floor.db.sql`update outbox set available_at = now() - interval '1 minute'`
  // A gateway with a sweep sends it within a second; this one has had three.
  await until(
    async () => {
      const [row] = await floor.db.sql<{ old: boolean }[]>`
        select max(available_at) < now() - interval '63 seconds' as old from outbox`
      return row?.old === true
    },
    () => 'three seconds to pass by the clock of the database',
  )
  expect(floor.queue.counts().ready).toBe(0)
  const sweep = spawnPart('edge/node/sweep-cli.ts', url)
  await said(sweep, 'sweeping')
  await expect.poll(() => floor.queue.counts().ready, { timeout: 20_000 }).toBe(1)
  sweep.kill('SIGTERM')
  expect(await sweep.ended).toEqual({ code: 0, signal: null })
  gateway.kill('SIGTERM')
  expect(await gateway.ended).toEqual({ code: 0, signal: null })
})
