import type { ChildProcess } from 'node:child_process'
import { setTimeout as wait } from 'node:timers/promises'
import { killGroup } from './kill-group.ts'

/** Ends something that was started; called once. */
type Stop = () => Promise<unknown>

/** How everything that one start has set up comes down again. */
export interface Shutdown {
  /** Aborted as soon as everything is to be stopped. */
  readonly leaving: AbortSignal
  /** For what stands on the rest: all of these end first, side by side. */
  addPart(stop: Stop): void
  /** For what the parts stand on: ended after them, newest first. */
  addBase(stop: Stop): void
  /** Names a process that must not be left behind: it is killed when the time is up. */
  watch(name: string, child: ChildProcess): void
  /** Ends everything, or kills it when the time is up. Never rejects; safe to repeat. */
  stop(): Promise<void>
  /** Cuts a stop that is under way short: what is left is killed. */
  hurry(): void
}

/**
 * Within ten seconds everything is down, which is what supervisors wait before they kill: the worker hands back
 * its job in eight, the database server closes in less than one after it, and one is left for a busy machine.
 */
const STOP_MS = 9_000
/** A killed process is gone within milliseconds; this process does not wait for one that is not. */
const KILL_WAIT_MS = 300

/** @param say shows a line to the person who started it */
export function createShutdown(say: (text: string) => void): Shutdown {
  const controller = new AbortController()
  const parts: Stop[] = []
  const bases: Stop[] = []
  const watched = new Map<ChildProcess, string>()
  const hurried = Promise.withResolvers<'hurried'>()

  const run = async (stop: Stop) => {
    await stop().catch((error: unknown) => say(`While stopping: ${String(error)}`))
  }
  const stopAll = async () => {
    await Promise.all(parts.map(run))
    for (const stop of bases.toReversed()) await run(stop)
    return 'done' as const
  }
  const killRest = async (cause: string) => {
    if (watched.size === 0) return
    say(`${cause}, killed: ${[...watched.values()].join(', ')}.`)
    const ends = [...watched.keys()].map((child) => new Promise((end) => child.once('exit', end)))
    for (const child of watched.keys()) killGroup(child)
    await Promise.race([Promise.all(ends), wait(KILL_WAIT_MS)])
  }
  const leave = async () => {
    controller.abort(new Error('stopped while it started'))
    const late = wait(STOP_MS, 'late' as const)
    switch (await Promise.race([stopAll(), hurried.promise, late])) {
      case 'hurried':
        return killRest('At once')
      case 'late':
        return killRest(`Not ended after ${STOP_MS / 1000} s`)
      case 'done':
    }
  }
  let left: Promise<void> | null = null
  return {
    leaving: controller.signal,
    addPart: (stop) => void parts.push(stop),
    addBase: (stop) => void bases.push(stop),
    watch(name, child) {
      watched.set(child, name)
      child.once('exit', () => watched.delete(child))
    },
    stop: () => (left ??= leave()),
    hurry: () => hurried.resolve('hurried'),
  }
}
