import type { ChildProcess } from 'node:child_process'

/**
 * Kills a process at once, and with it those that it has started: the engine of a worker computes on for as
 * long as a step takes before it sees that nobody waits. Safe to repeat.
 */
export function killGroup(child: ChildProcess): void {
  const { pid } = child
  if (pid === undefined || child.exitCode !== null || child.signalCode !== null) return
  try {
    process.kill(-pid, 'SIGKILL')
  } catch {
    // It does not lead a group of its own, or ended just now.
    child.kill('SIGKILL')
  }
}
