import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'

/** What runs under `npm start`. */
export type SoakPart = 'launcher and queue' | 'gateway' | 'worker' | 'engine' | 'database'

export interface MemorySample {
  atMs: number
  mib: number
}

/** What was measured of each process, by its part and its id. */
export type Lives = ReadonlyMap<`${SoakPart} ${number}`, readonly MemorySample[]>

export interface MemoryOfPart {
  part: SoakPart
  /** Processes that it has had, one after the other; of the database how many were measured, side by side. */
  lives: number
  /** Of the longest life, without its first minute; of the database from some minutes after the last kill on. */
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
/** Until a connection has planned nearly everything that is ever asked; each does so for itself. */
const PLANNING_MS = 180_000
const LEAST_MINUTES = 8
/** Growth of the later half of a life that is no noise of a collector. */
const FLAT_GROWTH = 0.1
const run = promisify(execFile)

/**
 * Samples the memory of a launcher and of everything under it: what is resident, of PostgreSQL what is its own.
 *
 * @param quietAtMs when the last kill is, in milliseconds from now
 */
export function watchMemory(launcherPid: number, quietAtMs: number): MemoryWatch {
  const lives = new Map<`${SoakPart} ${number}`, MemorySample[]>()
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
      return summarizeMemory(lives, quietAtMs)
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
  lives: Map<`${SoakPart} ${number}`, MemorySample[]>,
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
  for (const { pid, kib, args } of rows.filter((row) => pids.has(row.pid))) {
    const part = PARTS.find(([, pattern]) => pattern.test(args))?.[0]
    if (part === undefined) continue
    const own = part === 'database' ? await ownOf(pid, kib) : kib
    if (own === null) continue
    const name = `${part} ${pid}` as const
    const life = lives.get(name) ?? []
    life.push({ atMs, mib: own / 1024 })
    lives.set(name, life)
  }
}

/**
 * What a process of PostgreSQL has for itself; without the buffers that all share, which fill up to the size that is
 * set, and without the program, whose pages belong to all servers on the machine. Null of one that has just ended.
 */
async function ownOf(pid: number, kib: number): Promise<number | null> {
  if (process.platform !== 'linux') return kib
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8').catch(() => '')
  const own = /^Pss_Anon:\s+(\d+)/m.exec(text)?.[1]
  return own === undefined ? null : Number(own)
}

/** @param quietAtMs when the last kill was, in the samples' time */
export function summarizeMemory(lives: Lives, quietAtMs: number): MemoryOfPart[] {
  return PARTS.flatMap(([part]) => {
    const own = [...lives].filter(([name]) => name.startsWith(`${part} `)).map(([, life]) => life)
    const [longest] = own.toSorted((a, b) => b.length - a.length)
    if (longest === undefined) return []
    if (part === 'database') return summarizeDatabase(own, quietAtMs + PLANNING_MS)
    const startMs = (longest[0]?.atMs ?? 0) + WARM_UP_MS
    const life = longest.filter(({ atMs }) => atMs >= startMs)
    const maxMib = Math.max(0, ...own.flatMap((one) => one.map(({ mib }) => mib)))
    return { part, lives: own.length, maxMib: round(maxMib), ...judge(life) }
  })
}

/**
 * A killed client takes its connections with it, and a pool opens more of them as more callers come at once, up to its
 * bound: all of the server together is larger after the kills than amid them, and that says nothing. So the same
 * processes are held against themselves: those that were there all the time since, connections and the server's own.
 */
function summarizeDatabase(
  processes: readonly (readonly MemorySample[])[],
  startMs: number,
): MemoryOfPart {
  const all = addUp(processes)
  const window = [...all.keys()].filter((atMs) => atMs >= startMs)
  const lasting = processes.filter((life) => {
    const seen = new Set(life.map(({ atMs }) => atMs))
    return window.every((atMs) => seen.has(atMs))
  })
  const kept = addUp(lasting)
  const life = window.map((atMs) => ({ atMs, mib: kept.get(atMs) ?? 0 }))
  const maxMib = round(Math.max(0, ...all.values()))
  return { part: 'database', lives: lasting.length, maxMib, ...judge(life) }
}

/** Of all processes together, by the time of the sample. */
function addUp(processes: readonly (readonly MemorySample[])[]): Map<number, number> {
  const sums = new Map<number, number>()
  for (const { atMs, mib } of processes.flat()) sums.set(atMs, (sums.get(atMs) ?? 0) + mib)
  return sums
}

/** @param life of what is warm */
function judge(life: readonly MemorySample[]): Omit<MemoryOfPart, 'part' | 'lives' | 'maxMib'> {
  const values = life.map(({ mib }) => mib)
  const minutes = ((life.at(-1)?.atMs ?? 0) - (life[0]?.atMs ?? 0)) / 60_000
  const quarter = Math.floor(values.length / 4)
  const before = median(values.slice(quarter, 2 * quarter))
  const growth = median(values.slice(3 * quarter)) / before - 1
  return {
    minutes: round(minutes),
    firstMib: round(values[0] ?? 0),
    lastMib: round(values.at(-1) ?? 0),
    slopeMibPerHour: round(slopeOf(life)),
    growth: Number.isFinite(growth) ? Math.round(growth * 1000) / 1000 : 0,
    isFlat: minutes < LEAST_MINUTES ? null : growth <= FLAT_GROWTH,
  }
}

/** Least squares, per hour. */
function slopeOf(life: readonly MemorySample[]): number {
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
