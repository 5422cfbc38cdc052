import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { killGroup } from './kill-group.ts'
import { openLogFile } from './log-file.ts'

export interface PartOptions {
  name: string
  /** TypeScript file of the process. */
  script: string
  env: NodeJS.ProcessEnv
  logDir: string
  /** The event of its log that says it is ready. */
  readyEvent: string
  /** Told in words when the part dies or comes back, of its first warning of each kind, and of a lost log. */
  say: (text: string) => void
  /** Told of each process that is started. */
  onSpawn: (child: ChildProcess) => void
  /** Called at each death that nobody asked for, before it is started again. */
  onDeath?: () => void
}

export interface Part {
  /** Resolves when it is ready for the first time; rejects with its last words when it cannot start. */
  readonly ready: Promise<void>
  /** Asks it to end, insists after the given time. Safe to repeat. */
  stop(insistAfterMs: number): Promise<void>
}

const NODE_FLAGS = [
  '--disable-warning=ExperimentalWarning',
  '--experimental-strip-types',
  `--import=${new URL('./leash.ts', import.meta.url).href}`,
]
const FIRST_PAUSE_MS = 500
const LONGEST_PAUSE_MS = 10_000
/** A part that lived this long has started well; its next death begins a new count. */
const STABLE_MS = 30_000
/** Quick deaths in a row after which it is left dead: it would not get better. */
const MAX_QUICK_DEATHS = 5

/**
 * Runs one part as a process of its own and starts it again when it dies. Its output goes to
 * `<name>.log` in the log folder.
 */
export function startPart(options: PartOptions): Part {
  const { name, say } = options
  let child: ChildProcess | null = null
  let isStopping = false
  let quickDeaths = 0
  let timer: NodeJS.Timeout | null = null
  let hasStarted = false
  const ready = Promise.withResolvers<void>()
  const showWarning = createWarner(options)
  const onLine = (line: string) => {
    if (line.includes(`"event":"${options.readyEvent}"`)) {
      hasStarted = true
      ready.resolve()
    }
    if (!isStopping) showWarning(line)
  }

  const launch = () => {
    const startedMs = Date.now()
    const words: string[] = []
    child = spawnLogged(options, words, onLine)
    options.onSpawn(child)
    // Closed, and not only gone: its last words are read.
    child.once('close', (code, signal) => {
      child = null
      if (isStopping) return
      options.onDeath?.()
      quickDeaths = Date.now() - startedMs > STABLE_MS ? 1 : quickDeaths + 1
      const cause = `the ${name} ended (${signal ?? `code ${code}`})`
      // With code 1 a part says that something must be mended first; trying again would only repeat it.
      const isHopeless = !hasStarted && code === 1
      if (isHopeless || quickDeaths >= MAX_QUICK_DEATHS) {
        const text = `${cause}:\n${words.slice(-10).join('\n')}`
        ready.reject(new Error(text))
        if (hasStarted) say(`${text}\nIt is not started again.`)
        return
      }
      const pauseMs = Math.min(FIRST_PAUSE_MS * 2 ** (quickDeaths - 1), LONGEST_PAUSE_MS)
      say(`${cause}; it is started again in ${pauseMs / 1000} s`)
      timer = setTimeout(launch, pauseMs)
    })
  }
  launch()
  return {
    ready: ready.promise,
    async stop(insistAfterMs) {
      isStopping = true
      if (timer) clearTimeout(timer)
      const running = child
      if (!running) return
      const ended = once(running, 'close')
      const insist = setTimeout(() => killGroup(running), insistAfterMs)
      running.kill('SIGTERM')
      await ended
      clearTimeout(insist)
    },
  }
}

function spawnLogged(
  options: PartOptions,
  words: string[],
  onLine: (line: string) => void,
): ChildProcess {
  const { script, env, logDir, name, say } = options
  const child = spawn(process.execPath, [...NODE_FLAGS, script], {
    env,
    // The last one is never written to: that it closes tells the part that this process has ended.
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    // A Ctrl-C in the terminal goes to the launcher alone, which stops the parts in order.
    detached: true,
  })
  const log = openLogFile(join(logDir, `${name}.log`), {
    onTrouble: (text) => say(`${text}\nThe ${name} goes on without a log.`),
  })
  for (const stream of [child.stdout, child.stderr]) {
    if (!stream) continue
    createInterface({ input: stream }).on('line', (line) => {
      log.write(line)
      words.push(line)
      words.splice(0, Math.max(0, words.length - 20))
      onLine(line)
    })
  }
  // A process that could not be made closes as well, and is tried again like one that died.
  child.on('error', (error) => words.push(error.message))
  child.once('close', () => log.close())
  return child
}

/** Shows the first warning or error of each kind in a log: it may be about a setting. */
function createWarner({ name, say }: PartOptions): (line: string) => void {
  const shown = new Set<string>()
  return (line) => {
    if (!/"level":"(warn|error)"/.test(line)) return
    try {
      const entry = JSON.parse(line) as Record<string, string | undefined>
      const { event = 'warning' } = entry
      if (shown.has(event)) return
      shown.add(event)
      const text = entry.error ?? entry.message ?? entry.outcome ?? 'no more is said'
      say(`${name}: ${event}: ${text} (more like it in ${name}.log)`)
    } catch {
      // Another program's line, which the log has as it is.
    }
  }
}
