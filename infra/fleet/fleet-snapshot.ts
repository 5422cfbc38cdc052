import type { FleetMetrics } from '../../db/fleet-metrics.ts'
import { noteIdle } from './scaling-policy.ts'
import type { FleetSnapshot } from './scaling-policy.ts'

/** What the scaling group and its metrics say; as the cloud's answers have it, without their types. */
export interface GroupState {
  /** Names of lifecycle states, one for each instance. */
  readonly lifecycleStates: readonly string[]
  /** When instances were started and stopped. */
  readonly launchedAtMs: readonly number[]
  readonly endedAtMs: readonly number[]
  /** The newest values of what the sweep publishes. */
  readonly metrics: FleetMetrics
  /** One entry for each minute, oldest first: instances in service less workers that hold a job. */
  readonly idleByMinute: readonly { readonly atMs: number; readonly idle: number }[]
}

/** What the policy is asked with. Pure. */
export function fleetSnapshotOf(state: GroupState, nowMs: number): FleetSnapshot {
  const { metrics, lifecycleStates } = state
  const count = (begin: string) => lifecycleStates.filter((name) => name.startsWith(begin)).length
  const running = count('InService')
  const idleSince: number[] = []
  for (const { atMs, idle } of state.idleByMinute) {
    noteIdle(idleSince, Math.max(0, idle), atMs / 1_000)
  }
  const busy = Math.min(running, metrics.BusyWorkers)
  noteIdle(idleSince, running - busy, nowMs / 1_000)
  const since = (times: readonly number[]) =>
    times.length === 0 ? Infinity : (nowMs - Math.max(...times)) / 1_000
  const work = (jobs: number, gpuSeconds: number) =>
    jobs === 0 ? [] : [{ sizeClass: 'all', jobs, gpuSeconds }]
  return {
    nowMs,
    waiting: work(metrics.PromptJobs, metrics.PromptGpuSeconds),
    patient: work(metrics.PatientJobs, metrics.PatientGpuSeconds),
    oldestWaitSeconds: metrics.OldestWaitSeconds,
    running,
    busy,
    starting: count('Pending'),
    draining: count('Terminating'),
    spareSeconds: idleSince.map((at) => nowMs / 1_000 - at),
    sinceScaleOutSeconds: since(state.launchedAtMs),
    sinceScaleInSeconds: since(state.endedAtMs),
  }
}
