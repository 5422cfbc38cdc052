import type { Backlog } from './backlog.ts'
import { SIZE_CLASSES } from './size-classes.ts'

/** What the sweep publishes and the fleet is scaled by: names of metrics without dimensions. */
export interface FleetMetrics {
  /** What waiting standard jobs hold GPUs, by the mean of their class. */
  PromptGpuSeconds: number
  PromptJobs: number
  /** The same of jobs that may take a day. */
  PatientGpuSeconds: number
  PatientJobs: number
  /** Of the standard jobs that nobody has begun. */
  OldestWaitSeconds: number
  BusyWorkers: number
}

export const FLEET_METRICS = [
  'PromptGpuSeconds',
  'PromptJobs',
  'PatientGpuSeconds',
  'PatientJobs',
  'OldestWaitSeconds',
  'BusyWorkers',
] as const satisfies readonly (keyof FleetMetrics)[]

/** The waiting part of the books in the units of the scaling policy. Pure. */
export function fleetMetricsOf(backlog: Backlog): FleetMetrics {
  const sum = (priority: 'standard' | 'batch') => {
    const waiting = backlog.groups.filter(
      (group) => group.phase === 'waiting' && group.priority === priority,
    )
    const secondsOf = (sizeClass: number) => SIZE_CLASSES[sizeClass]?.meanSeconds ?? 0
    return {
      jobs: waiting.reduce((total, { jobs }) => total + jobs, 0),
      gpuSeconds: waiting.reduce(
        (total, { images, sizeClass }) => total + images * secondsOf(sizeClass),
        0,
      ),
    }
  }
  const prompt = sum('standard')
  const patient = sum('batch')
  return {
    PromptGpuSeconds: prompt.gpuSeconds,
    PromptJobs: prompt.jobs,
    PatientGpuSeconds: patient.gpuSeconds,
    PatientJobs: patient.jobs,
    OldestWaitSeconds: backlog.oldestWaitSeconds,
    BusyWorkers: backlog.busyWorkers,
  }
}
