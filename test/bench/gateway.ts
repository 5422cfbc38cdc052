/**
 * The gateway's create and refuse paths beside a pass-through gateway, on loopback.
 *
 * Usage: node --experimental-strip-types test/bench/gateway.ts [--portkey DIR] [--rounds N] [--seconds N]
 * DIR is a folder in which `npm i @portkey-ai/gateway@1.15.2 --ignore-scripts` was run. That gateway listens
 * on all interfaces, so run the whole bench in a network namespace of its own:
 * unshare --net sh -c 'ip link set lo up; npm run bench:gateway -- --portkey DIR'
 *
 * What each variant does per request: `direct` is the mock itself; `portkey` passes the call through to the
 * mock; `create` checks the key, the rate and the size, prices, reserves on three levels with job, ledger and
 * outbox rows in one PostgreSQL commit (fsync on), and answers; the queue message follows behind the answer.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { Agent, request } from 'undici'
import { closeDatabase, openDatabase } from '../../db/client.ts'
import { createId } from '../../db/ids.ts'
import { insertKey } from '../../db/keys.ts'
import { migrateDatabase } from '../../db/migrate-cli.ts'
import { createOrg, createTeam } from '../../db/orgs.ts'
import { createApiKey } from '../../edge/api-key.ts'
import { findFreePort, startPostgres } from '../../infra/local/postgres.ts'
import { LOCAL_CREDENTIALS, startQueue } from '../../infra/local/queue.ts'
import { describeMachine } from '../support/machine.ts'
import { TEST_PEPPER } from '../support/pepper.ts'

const { values } = parseArgs({
  options: {
    portkey: { type: 'string' },
    rounds: { type: 'string', default: '15' },
    calls: { type: 'string', default: '150' },
    seconds: { type: 'string', default: '5' },
  },
})
const CLIENTS = 16
const LOOP_ROUNDS = 3
const body = JSON.stringify({ prompt: "A navy poster with the title 'GRAND OPENING' in white" })

interface Variant {
  name: string
  url: string
  headers: Record<string, string>
  expected: number
}

const machineBefore = describeMachine()
const folder = await mkdtemp(join(tmpdir(), 'glyphpress-bench-'))
await chmod(folder, 0o755)
const children: ChildProcess[] = []
const postgres = await startPostgres({ dataDir: join(folder, 'pg'), password: 'bench' })
const queue = await startQueue()
const mock = createServer((incoming, response) => {
  incoming.resume().on('end', () => {
    response.setHeader('content-type', 'application/json')
    response.end('{"created":1,"data":[{"url":"http://127.0.0.1/x.png"}]}')
  })
})
await new Promise<void>((resolve) => mock.listen(0, '127.0.0.1', resolve))
const mockAddress = mock.address()
const mockPort = typeof mockAddress === 'object' && mockAddress ? mockAddress.port : 0

try {
  const variants = await prepare()
  const sequential = await measureSequential(variants)
  const closedLoop = await measureClosedLoop(variants)
  console.log(
    JSON.stringify(
      {
        bench: 'gateway',
        machine: machineBefore,
        loadAfter: describeMachine().load,
        sequential,
        closedLoop,
      },
      null,
      2,
    ),
  )
} finally {
  for (const child of children) child.kill('SIGTERM')
  mock.close()
  await queue.stop()
  await postgres.stop()
  await rm(folder, { recursive: true, force: true })
}
process.exit(0)

async function prepare(): Promise<Variant[]> {
  await migrateDatabase(postgres.url)
  const db = openDatabase(postgres.url, { maxConnections: 1 })
  const { orgId } = await createOrg(db, { name: 'b', kind: 'external', settlementMode: 'postpaid' })
  const { teamId } = await createTeam(db, { orgId, name: 'b', costCentre: 'b' })
  const addKey = async (requestsPerMinute: number) => {
    const { key, hash, last4 } = await createApiKey(TEST_PEPPER, 'test')
    const scopes = ['generate', 'read']
    const common = { keyId: createId('key'), orgId, teamId, name: 'b', env: 'test' as const }
    await insertKey(db, { ...common, hash, last4, scopes, requestsPerMinute })
    return key
  }
  const fast = await addKey(100_000_000)
  const slow = await addKey(1)
  await closeDatabase(db)
  const gateway = await startGatewayProcess()
  const json = { 'content-type': 'application/json' }
  const mockUrl = `http://127.0.0.1:${mockPort}/v1/images/generations`
  const own = (name: string, key: string, expected: number): Variant => ({
    name,
    url: `${gateway}/v1/jobs`,
    headers: { ...json, authorization: `Bearer ${key}` },
    expected,
  })
  const variants: Variant[] = [
    { name: 'direct', url: mockUrl, headers: json, expected: 200 },
    own('create', fast, 201),
    own('refuse 401', 'gp_live_malformed', 401),
    own('refuse 429', slow, 429),
  ]
  // The slow key's only call of the minute.
  await call(new Agent(), { ...own('', slow, 201) })
  if (values.portkey) variants.push(await startPortkey(values.portkey))
  return variants
}

async function startGatewayProcess(): Promise<string> {
  const port = await findFreePort()
  const child = spawn(process.execPath, ['--experimental-strip-types', 'edge/node.ts'], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: {
      ...process.env,
      NODE_NO_WARNINGS: '1',
      DATABASE_URL: postgres.url,
      KEY_PEPPER: TEST_PEPPER,
      PUBLIC_URL: `http://127.0.0.1:${port}`,
      PORT: String(port),
      SQS_QUEUE_URL: queue.queueUrl,
      SQS_ENDPOINT: queue.endpoint,
      AWS_REGION: queue.region,
      AWS_ACCESS_KEY_ID: LOCAL_CREDENTIALS.accessKeyId,
      AWS_SECRET_ACCESS_KEY: LOCAL_CREDENTIALS.secretAccessKey,
      OBJECT_DIR: folder,
    },
  })
  children.push(child)
  await waitFor(`http://127.0.0.1:${port}/health/ready`)
  return `http://127.0.0.1:${port}`
}

async function startPortkey(dir: string): Promise<Variant> {
  const port = await findFreePort()
  const script = join(dir, 'node_modules/@portkey-ai/gateway/build/start-server.js')
  children.push(
    spawn(process.execPath, [script, `--port=${port}`, '--headless'], {
      stdio: 'ignore',
      cwd: dir,
    }),
  )
  await waitFor(`http://127.0.0.1:${port}/`)
  return {
    name: 'portkey',
    url: `http://127.0.0.1:${port}/v1/images/generations`,
    headers: {
      'content-type': 'application/json',
      authorization: 'Bearer x',
      'x-portkey-provider': 'openai',
      'x-portkey-custom-host': `http://127.0.0.1:${mockPort}/v1`,
    },
    expected: 200,
  }
}

async function waitFor(url: string): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const isUp = await fetch(url).then(
      () => true,
      () => false,
    )
    if (isUp) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  throw new Error(`${url} does not answer`)
}

/** One call; milliseconds, or null when the status is another than expected. */
async function call(agent: Agent, variant: Variant): Promise<number | null> {
  const startedMs = performance.now()
  const response = await request(variant.url, {
    method: 'POST',
    headers: variant.headers,
    body,
    dispatcher: agent,
  })
  await response.body.dump()
  return response.statusCode === variant.expected ? performance.now() - startedMs : null
}

/** Rounds of sequential calls, variants in alternating order; medians of the rounds' medians. */
async function measureSequential(variants: Variant[]) {
  const rounds = new Map(variants.map(({ name }) => [name, { medians: [] as number[], errors: 0 }]))
  const agents = new Map(variants.map(({ name }) => [name, new Agent({ connections: 1 })]))
  for (let round = -1; round < Number(values.rounds); round++) {
    for (const variant of round % 2 === 0 ? variants : variants.toReversed()) {
      const agent = agents.get(variant.name)
      const record = rounds.get(variant.name)
      if (!agent || !record) continue
      const times: number[] = []
      for (let index = 0; index < Number(values.calls); index++) {
        const ms = await call(agent, variant)
        if (ms === null) record.errors += 1
        else times.push(ms)
      }
      // The first round warms up.
      if (round >= 0) record.medians.push(quantile(times, 0.5))
    }
  }
  const direct = quantile(rounds.get('direct')?.medians ?? [], 0.5)
  return [...rounds].map(([name, { medians, errors }]) => ({
    name,
    medianMs: round3(quantile(medians, 0.5)),
    addedMs: round3(quantile(medians, 0.5) - direct),
    roundMediansMs: medians.map(round3),
    errors,
  }))
}

/** Sixteen clients that each send the next call when the last is answered. */
async function measureClosedLoop(variants: Variant[]) {
  const results = []
  for (let round = 0; round < LOOP_ROUNDS; round++) {
    for (const variant of round % 2 === 0 ? variants : variants.toReversed()) {
      const agent = new Agent({ connections: CLIENTS })
      const times: number[] = []
      let errors = 0
      const endMs = performance.now() + Number(values.seconds) * 1000
      const client = async () => {
        while (performance.now() < endMs) {
          const ms = await call(agent, variant)
          if (ms === null) errors += 1
          else times.push(ms)
        }
      }
      await Promise.all(Array.from({ length: CLIENTS }, client))
      await agent.close()
      results.push({
        name: variant.name,
        round,
        requestsPerSecond: Math.round(times.length / Number(values.seconds)),
        p50Ms: round3(quantile(times, 0.5)),
        p99Ms: round3(quantile(times, 0.99)),
        errors,
      })
    }
  }
  return results
}

function quantile(numbers: number[], share: number): number {
  const sorted = numbers.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? NaN
}

function round3(value: number): number {
  return Math.round(value * 1000) / 1000
}
