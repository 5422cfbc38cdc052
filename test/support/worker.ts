import { execFileSync, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { setTimeout as wait } from 'node:timers/promises'
import type { TestQueue } from './queue.ts'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
export const MODEL_DIR = `${ROOT}test/fixtures/checkpoint`
const NODE_FLAGS = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']

export type LogEntry = Record<string, unknown> & { event?: string }

export interface TestProcess {
  readonly pid: number
  /** What it has logged so far. */
  readonly log: readonly LogEntry[]
  /** Everything it wrote, for messages of failing tests. */
  output(): string
  kill(signal: NodeJS.Signals): void
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>
}

/** Processes of this test file; none may outlive it. */
const running = new Set<TestProcess>()

/** Runs one of our TypeScript files as a process of its own. */
export function spawnScript(
  file: string,
  options: { env?: Record<string, string>; args?: string[]; cwd?: string } = {},
): TestProcess {
  const child = spawn(
    process.execPath,
    [...NODE_FLAGS, `${ROOT}${file}`, ...(options.args ?? [])],
    {
      cwd: options.cwd ?? ROOT,
      env: { PATH: process.env.PATH ?? '', HOME: process.env.HOME ?? '', ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  let text = ''
  let line = ''
  const log: LogEntry[] = []
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk
    const lines = (line + chunk).split('\n')
    line = lines.pop() ?? ''
    for (const full of lines) if (full.startsWith('{')) log.push(JSON.parse(full) as LogEntry)
  })
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (text += chunk))
  const test: TestProcess = {
    pid: child.pid ?? 0,
    log,
    output: () => text,
    kill: (signal) => void child.kill(signal),
    ended: new Promise((resolve) =>
      child.once('close', (code, signal) => {
        running.delete(test)
        resolve({ code, signal })
      }),
    ),
  }
  running.add(test)
  return test
}

/** Ends what is still running; for `afterEach`. */
export async function killAll(): Promise<void> {
  await Promise.all(
    [...running].map((test) => {
      test.kill('SIGKILL')
      return test.ended
    }),
  )
}

/** A real worker process with the bundled model, ready to take jobs. */
export async function spawnWorker(input: {
  databaseUrl: string
  queue: TestQueue
  objectDir: string
  env?: Record<string, string>
}): Promise<TestProcess> {
  const worker = spawnScript('gpu-worker/main.ts', {
    env: {
      ...input.queue.env,
      DATABASE_URL: input.databaseUrl,
      OBJECT_DIR: input.objectDir,
      MODEL_DIR,
      THREADS: '1',
      ...input.env,
    },
  })
  const isReady = () => worker.log.some(({ event }) => event === 'ready')
  await Promise.race([
    until(isReady, () => `the worker to be ready:\n${worker.output()}`),
    worker.ended.then(() => {
      throw new Error(`the worker ended:\n${worker.output()}`)
    }),
  ])
  return worker
}

/** Process ids of a process's children. */
export function childrenOf(pid: number): number[] {
  const text = execFileSync('ps', ['-eo', 'pid=,ppid='], { encoding: 'utf8' })
  return text
    .trim()
    .split('\n')
    .map((row) => row.trim().split(/\s+/).map(Number))
    .filter(([, parent]) => parent === pid)
    .map(([child]) => child ?? 0)
}

/** Waits for something that another process does; fails loudly, not quietly. */
export async function until(
  check: () => boolean | Promise<boolean>,
  what: () => string,
  timeoutMs = 60_000,
): Promise<void> {
  const giveUpAt = performance.now() + timeoutMs
  while (!(await check())) {
    if (performance.now() > giveUpAt) throw new Error(`waited ${timeoutMs} ms for ${what()}`)
    await wait(20)
  }
}
