/**
 * How long the Worker takes to start: the bundle as it is deployed, in a real workerd of its own each time.
 *
 *   npm run bench:worker -- [--starts 10] [--out FILE]
 *
 * `firstAnswerMs` goes from the start of the workerd process to its first answer (`GET /health/live`), so it holds the start
 * of the server program as well; `emptyMs` is the same for a Worker that does nothing, and the difference is what this
 * bundle adds: reading, compiling and running its top level. `...CpuMs` is what workerd has computed till then, by Linux in
 * steps of 10 ms, which a busy machine does not stretch; Cloudflare allows a second of it for the top level.
 * `nextAnswerMs` is the second answer.
 */
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { parseArgs, promisify } from 'node:util'
import { gzipSync } from 'node:zlib'
import { Miniflare, convertV4MiniflareOptions } from 'miniflare'
import { TEST_PEPPER } from '../support/pepper.ts'
import { describeMachine } from '../support/machine.ts'
import { childrenOf } from '../support/worker.ts'

const ROOT = resolve(import.meta.dirname, '../..')
const QUIET = {
  CI: '1',
  CLOUDFLARE_CF_FETCH_ENABLED: 'false',
  CLOUDFLARE_TELEMETRY_DISABLED: '1',
  WRANGLER_SEND_METRICS: 'false',
  WRANGLER_SEND_ERROR_REPORTS: 'false',
  WRANGLER_HIDE_BANNER: 'true',
}
/** What Cloudflare gives a top level. */
const GOAL_CPU_MS = 1_000
/** Of the kernel's accounting. */
const TICK_MS = 10
const EMPTY = 'export default { fetch: () => new Response("ok") }'
const VARS = {
  DATABASE_URL: 'postgres://nobody:none@127.0.0.1:1/none',
  KEY_PEPPER: TEST_PEPPER,
  PUBLIC_URL: 'https://images.example.com',
  AWS_REGION: 'us-east-1',
  AWS_ACCESS_KEY_ID: 'test',
  AWS_SECRET_ACCESS_KEY: 'test',
  SQS_QUEUE_URL: 'https://sqs.us-east-1.amazonaws.com/000000000000/jobs',
  S3_BUCKET: 'pictures',
  S3_PUBLIC: '0',
}

const { values } = parseArgs({
  options: { starts: { type: 'string', default: '10' }, out: { type: 'string' } },
})
const machine = describeMachine()
const folder = await mkdtemp(join(tmpdir(), 'glyphpress-worker-'))
try {
  const code = await bundle()
  const own: Start[] = []
  const empty: Start[] = []
  // In turn, so that what else the machine does falls on both.
  for (let turn = 0; turn < Number(values.starts); turn++) {
    empty.push(await start(EMPTY, '/'))
    own.push(await start(code, '/health/live'))
  }
  const report = {
    bench: 'worker-start',
    command: `npm run bench:worker -- --starts ${own.length}`,
    machine,
    loadAfter: describeMachine().load,
    bundleKib: Math.round(Buffer.byteLength(code) / 1024),
    gzipKib: Math.round(gzipSync(code).length / 1024),
    firstAnswerMs: median(own.map(({ firstMs }) => firstMs)),
    emptyMs: median(empty.map(({ firstMs }) => firstMs)),
    addedMs: median(own.map(({ firstMs }, at) => firstMs - (empty[at]?.firstMs ?? 0))),
    firstAnswerCpuMs: median(own.map(({ cpuMs }) => cpuMs)),
    emptyCpuMs: median(empty.map(({ cpuMs }) => cpuMs)),
    addedCpuMs: median(own.map(({ cpuMs }, at) => cpuMs - (empty[at]?.cpuMs ?? 0))),
    nextAnswerMs: median(own.map(({ nextMs }) => nextMs)),
    goalCpuMs: GOAL_CPU_MS,
    starts: own.map((one, at) => ({ ...one, empty: empty[at] })),
  }
  const { starts: _starts, machine: _machine, ...shown } = report
  console.table(shown)
  if (values.out !== undefined) await writeFile(values.out, `${JSON.stringify(report, null, 2)}\n`)
} finally {
  await rm(folder, { recursive: true })
}

async function bundle(): Promise<string> {
  const wrangler = join(ROOT, 'node_modules/wrangler/bin/wrangler.js')
  const args = ['deploy', '--dry-run', '--env=production', `--outdir=${folder}`]
  await promisify(execFile)(process.execPath, [wrangler, ...args], {
    cwd: ROOT,
    env: { PATH: process.env.PATH ?? '', HOME: folder, ...QUIET },
  })
  return readFile(join(folder, 'index.js'), 'utf8')
}

interface Start {
  firstMs: number
  cpuMs: number
  nextMs: number
}

async function start(script: string, path: string): Promise<Start> {
  const startedMs = performance.now()
  const server = new Miniflare(
    convertV4MiniflareOptions({
      modules: true,
      script,
      compatibilityDate: '2026-08-20',
      compatibilityFlags: ['nodejs_compat', 'enable_request_signal'],
      cf: false,
      host: '127.0.0.1',
      port: 0,
      bindings: VARS,
      ratelimits: { SHIELD: { namespace_id: '1001', simple: { limit: 300, period: 10 } } },
    }),
  )
  try {
    const url = new URL(path, await server.ready)
    const ask = async () => {
      const response = await fetch(url)
      if (response.status !== 200) throw new Error(`${path} answers ${response.status}`)
      await response.arrayBuffer()
      return performance.now()
    }
    const firstAt = await ask()
    const cpuMs = await computedBy('workerd')
    const askedAt = performance.now()
    const nextMs = round((await ask()) - askedAt)
    return { firstMs: Math.round(firstAt - startedMs), cpuMs, nextMs }
  } finally {
    await server.dispose()
  }
}

/** User and system time of this process's child of that name; NaN where the system does not tell. */
async function computedBy(name: string): Promise<number> {
  for (const pid of childrenOf(process.pid)) {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '')
    if (!stat.includes(`(${name})`)) continue
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(fields[11]) + Number(fields[12])) * TICK_MS
  }
  return Number.NaN
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? Number.NaN
}

function round(value: number): number {
  return Math.round(value * 10) / 10
}
