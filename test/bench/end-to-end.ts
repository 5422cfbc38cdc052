/**
 * The embedded stack with the bundled checkpoint, as a newcomer meets it: from `npm start` to the first picture,
 * then pictures one after the other and many at once, as JSON on standard output.
 *
 * Usage: node --experimental-strip-types test/bench/end-to-end.ts [--starts N] [--pictures N] [--size WxH]
 *
 * Each start has an empty state folder of its own, so it includes making the database cluster. Times are seen
 * from the client: the call that waits, until its answer with the picture's URL is there.
 */
import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { findFreePort } from '../../infra/local/postgres.ts'
import { describeMachine } from '../support/machine.ts'

const { values } = parseArgs({
  options: {
    starts: { type: 'string', default: '5' },
    pictures: { type: 'string', default: '20' },
    size: { type: 'string', default: '256x256' },
  },
})
const START_TIMEOUT_MS = 120_000

interface Stack {
  child: ChildProcess
  origin: string
  key: string
  readyMs: number
}

const machine = describeMachine()
const folder = await mkdtemp(join(tmpdir(), 'glyphpress-bench-'))
await chmod(folder, 0o755)
try {
  const starts = []
  for (let index = 0; index < Number(values.starts); index++) {
    const isLast = index === Number(values.starts) - 1
    starts.push(await measureStart(join(folder, String(index)), isLast))
  }
  const { pictures } = starts.at(-1) ?? {}
  console.log(
    JSON.stringify(
      {
        bench: 'end-to-end',
        machine,
        loadAfter: describeMachine().load,
        size: values.size,
        firstPictureMs: median(starts.map(({ firstPictureMs }) => firstPictureMs)),
        starts: starts.map(({ pictures: _pictures, ...times }) => times),
        ...pictures,
      },
      null,
      2,
    ),
  )
} finally {
  await rm(folder, { recursive: true, force: true })
}

async function measureStart(stateDir: string, withPictures: boolean) {
  const startedMs = performance.now()
  const stack = await start(stateDir)
  try {
    await draw(stack)
    const firstPictureMs = Math.round(performance.now() - startedMs)
    const pictures = withPictures ? await measurePictures(stack) : undefined
    const stoppingMs = performance.now()
    await stop(stack)
    const stopMs = Math.round(performance.now() - stoppingMs)
    return { readyMs: stack.readyMs, firstPictureMs, stopMs, pictures }
  } finally {
    if (stack.child.exitCode === null) stack.child.kill('SIGKILL')
  }
}

async function measurePictures(stack: Stack) {
  const count = Number(values.pictures)
  const oneByOneMs: number[] = []
  for (let index = 0; index < count; index++) oneByOneMs.push(await draw(stack))
  const startedMs = performance.now()
  await Promise.all(Array.from({ length: count }, () => draw(stack)))
  const seconds = (performance.now() - startedMs) / 1000
  return {
    oneByOne: { medianMs: median(oneByOneMs), timesMs: oneByOneMs },
    atOnce: { pictures: count, perSecond: Math.round((count / seconds) * 100) / 100 },
  }
}

async function start(stateDir: string): Promise<Stack> {
  const port = await findFreePort()
  const startedMs = performance.now()
  const child = spawn(
    process.execPath,
    [
      '--disable-warning=ExperimentalWarning',
      '--experimental-strip-types',
      'infra/local/start.ts',
      '--port',
      String(port),
      '--state-dir',
      stateDir,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  let text = ''
  child.stdout?.on('data', (chunk: Buffer) => {
    text += chunk.toString()
    child.emit('said')
  })
  const signal = AbortSignal.timeout(START_TIMEOUT_MS)
  while (!text.includes('Ctrl-C stops everything.')) {
    const event = await Promise.race([
      once(child, 'said', { signal }).then(() => 'said' as const),
      once(child, 'exit', { signal }).then(() => 'exit' as const),
    ])
    if (event === 'exit') throw new Error(`npm start ended:\n${text}`)
  }
  const key = /gp_live_[0-9A-Za-z]+/.exec(text)?.[0]
  if (key === undefined) throw new Error(`npm start showed no key:\n${text}`)
  const readyMs = Math.round(performance.now() - startedMs)
  return { child, origin: `http://127.0.0.1:${port}`, key, readyMs }
}

async function stop({ child }: Stack): Promise<void> {
  const ended = once(child, 'exit')
  child.kill('SIGINT')
  await ended
}

/** One picture by the call that waits; whole milliseconds. */
async function draw({ origin, key }: Stack): Promise<number> {
  const startedMs = performance.now()
  const answer = await fetch(`${origin}/v1/images/generations`, {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: "A navy poster with the title 'OPEN'", size: values.size }),
  })
  const body = (await answer.json()) as { data?: { url?: string }[] }
  if (!answer.ok || body.data?.[0]?.url === undefined) throw new Error(JSON.stringify(body))
  return Math.round(performance.now() - startedMs)
}

function median(numbers: readonly number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b)
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN
}
