import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'

/** What runs under `npm start`. */
export type SoakPart = 'launcher and queue' | 'gateway' | 'worker' | 'engine' | 'database'

interface Sample {
  atMs: number
  mib: number
}

export interface MemoryOfPart {
  part: SoakPart
  /** Processes that it has had, one after the other. */
  lives: number
  /** Of the longest life, without its first minute. */
  minutes: number
  firstMib: number
  lastMib: number
  maxMib: number
  /** Least squares over that life. */
  slopeMibPerHour: number
  /** Last quarter against the second, by their medians. */
  growth: number
  /** Null: it did not live long enough to say. */
  isFlat: boolean | null
}

export interface MemoryWatch {
  stop(): Promise<MemoryOfPart[]>
}

const SAMPLE_MS = 5_000
/** Code is compiled, caches and pools fill. */
const WARM_UP_MS = 60_000
const LEAST_MINUTES = 8
/** Growth of the later half of a life that is no noise of a collector. */
const FLAT_GROWTH = 0.1
const run = promisify(execFile)

/** Samples the memory of a launcher and of everything under it: what is resident, of PostgreSQL what is its own. */
export function watchMemory(launcherPid: number): MemoryWatch {
  const lives = new Map<string, Sample[]>()
  const startMs = performance.now()
  let isOver = false
  const loop = (async () => {
    while (!isOver) {
      await sample(launcherPid, lives, performance.now() - startMs).catch(() => {})
      await new Promise((wake) => setTimeout(wake, SAMPLE_MS))
    }
  })()
  return {
    async stop() {
      isOver = true
      await loop
      return PARTS.map(([part]) => summarize(part, lives)).filter((one) => one.lives > 0)
    },
  }
}

/** By what its command line says; the launcher itself is known by its id. */
const PARTS: readonly [SoakPart, RegExp][] = [
  ['launcher and queue', /infra\/local\/start\.ts/],
  ['gateway', /edge\/node\.ts/],
  ['worker', /gpu-worker\/main\.ts/],
  ['engine', /gpu-worker\/engine-process\.ts/],
  ['database', /postgres/],
]

async function sample(
  launcherPid: number,
  lives: Map<string, Sample[]>,
  atMs: number,
): Promise<void> {
  const { stdout } = await run('ps', ['-eo', 'pid=,ppid=,rss=,args='])
  const rows = stdout
    .trim()
    .split('\n')
    .map((line) => {
      const [pid, parent, rss, ...args] = line.trim().split(/\s+/)
      return { pid: Number(pid), parent: Number(parent), kib: Number(rss), args: args.join(' ') }
    })
  const pids = new Set([launcherPid])
  for (let size = 0; size !== pids.size;) {
    size = pids.size
    for (const { pid, parent } of rows) if (pids.has(parent)) pids.add(pid)
  }
  let databaseKib = 0
  for (const { pid, kib, args } of rows.filter((row) => pids.has(row.pid))) {
    const part = PARTS.find(([, pattern]) => pattern.test(args))?.[0]
    if (part === 'database') databaseKib += await ownOf(pid, kib)
    else if (part) note(lives, `${part} ${pid}`, { atMs, mib: kib / 1024 })
  }
  if (databaseKib > 0) note(lives, 'database 0', { atMs, mib: databaseKib / 1024 })
}

/**
 * What a process of PostgreSQL has for itself, with its share of the program; without the buffers that all share, which
 * fill up to the size that is set. Nothing of one that has just ended.
 */
async function ownOf(pid: number, kib: number): Promise<number> {
  if (process.platform !== 'linux') return kib
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8').catch(() => '')
  const of = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0)
  return of('Pss') - of('Pss_Shmem')
}

function note(lives: Map<string, Sample[]>, name: string, sampled: Sample): void {
  const life = lives.get(name) ?? []
  life.push(sampled)
  lives.set(name, life)
}

function summarize(part: SoakPart, lives: ReadonlyMap<string, Sample[]>): MemoryOfPart {
  const own = [...lives].filter(([name]) => name.startsWith(`${part} `)).map(([, life]) => life)
  const longest = own.toSorted((a, b) => b.length - a.length)[0] ?? []
  const startMs = (longest[0]?.atMs ?? 0) + WARM_UP_MS
  const life = longest.filter(({ atMs }) => atMs >= startMs)
  const values = life.map(({ mib }) => mib)
  const minutes = ((life.at(-1)?.atMs ?? 0) - (life[0]?.atMs ?? 0)) / 60_000
  const quarter = Math.floor(values.length / 4)
  const before = median(values.slice(quarter, 2 * quarter))
  const growth = median(values.slice(3 * quarter)) / before - 1
  return {
    part,
    lives: own.length,
    minutes: round(minutes),
    firstMib: round(values[0] ?? 0),
    lastMib: round(values.at(-1) ?? 0),
    maxMib: round(Math.max(0, ...own.flatMap((one) => one.map(({ mib }) => mib)))),
    slopeMibPerHour: round(slopeOf(life)),
    growth: Number.isFinite(growth) ? Math.round(growth * 1000) / 1000 : 0,
    isFlat: minutes < LEAST_MINUTES ? null : growth <= FLAT_GROWTH,
  }
}

/** Least squares, per hour. */
function slopeOf(life: readonly Sample[]): number {
  const meanAt = mean(life.map(({ atMs }) => atMs))
  const meanMib = mean(life.map(({ mib }) => mib))
  const over = life.reduce((sum, { atMs, mib }) => sum + (atMs - meanAt) * (mib - meanMib), 0)
  const under = life.reduce((sum, { atMs }) => sum + (atMs - meanAt) ** 2, 0)
  return under === 0 ? 0 : (over / under) * 3_600_000
}

const mean = (values: readonly number[]) =>
  values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length)
const median = (values: readonly number[]) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
const round = (value: number) => Math.round(value * 10) / 10
