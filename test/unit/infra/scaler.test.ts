import { AutoScalingClient } from '@aws-sdk/client-auto-scaling'
import { CloudWatchClient } from '@aws-sdk/client-cloudwatch'
import { describe, expect, test } from 'vitest'
import { FLEET_METRICS } from '../../../db/fleet-metrics.ts'
import type { FleetMetrics } from '../../../db/fleet-metrics.ts'
import { scaleGroup } from '../../../infra/cdk/scaler.ts'
import { fleetSnapshotOf } from '../../../infra/fleet/fleet-snapshot.ts'
import { IDLE_SECONDS } from '../../../infra/fleet/scaling-policy.ts'

const NOW = new Date('2026-11-25T12:00:00Z')
const QUIET: FleetMetrics = {
  PromptGpuSeconds: 0,
  PromptJobs: 0,
  PatientGpuSeconds: 0,
  PatientJobs: 0,
  OldestWaitSeconds: 0,
  BusyWorkers: 0,
}
const INPUT = {
  groupName: 'workers',
  namespace: 'Glyphpress/test',
  settings: {
    minGpus: 0,
    maxGpus: 8,
    floors: [],
    costCapPerHour: 100,
    pricePerGpuHour: 6.88,
    coldStartSeconds: 180,
    backlogTargetSeconds: 120,
    promisedWaitSeconds: 60,
  },
}

/** Clients that answer from a small world in place of the network. */
function cloud(world: {
  desired: number
  states: string[]
  metrics: FleetMetrics
  /** Newest last; a minute each. */
  minutes?: { running: number; busy: number }[]
  ageSeconds?: number
  activities?: { Description: string; StartTime: Date }[]
}) {
  const asked: { name: string; input: Record<string, unknown> }[] = []
  const minutes = world.minutes ?? [{ running: 0, busy: world.metrics.BusyWorkers }]
  const newest = NOW.getTime() - (world.ageSeconds ?? 30) * 1_000
  const times = minutes.map((_, index) => new Date(newest - (minutes.length - 1 - index) * 60_000))
  const answers: Record<string, unknown> = {
    DescribeAutoScalingGroupsCommand: {
      AutoScalingGroups: [
        {
          DesiredCapacity: world.desired,
          Instances: world.states.map((LifecycleState) => ({ LifecycleState })),
        },
      ],
    },
    DescribeScalingActivitiesCommand: { Activities: world.activities ?? [] },
    SetDesiredCapacityCommand: {},
    GetMetricDataCommand: {
      MetricDataResults: [
        ...FLEET_METRICS.map((name, index) => ({
          Id: `m${index}`,
          Timestamps: times,
          Values: minutes.map(({ busy }) => (name === 'BusyWorkers' ? busy : world.metrics[name])),
        })),
        { Id: 'running', Timestamps: times, Values: minutes.map(({ running }) => running) },
      ],
    },
  }
  const settings = {
    region: 'us-east-1',
    credentials: { accessKeyId: 'test', secretAccessKey: 'test' },
  }
  const group = new AutoScalingClient(settings)
  const metrics = new CloudWatchClient(settings)
  for (const client of [group, metrics] as {
    middlewareStack: AutoScalingClient['middlewareStack']
  }[]) {
    client.middlewareStack.add(
      (_next, context) => async (args) => {
        const name = String(context.commandName)
        asked.push({ name, input: args.input as Record<string, unknown> })
        return { response: {}, output: { $metadata: {}, ...(answers[name] as object) } } as never
      },
      { step: 'initialize', priority: 'high' },
    )
  }
  const setTo = () =>
    asked
      .filter(({ name }) => name === 'SetDesiredCapacityCommand')
      .map(({ input }) => input['DesiredCapacity'])
  return { clients: { group, metrics }, setTo }
}

describe('the scaler', () => {
  test('starts the first machine for the first job', async () => {
    const { clients, setTo } = cloud({
      desired: 0,
      states: [],
      metrics: { ...QUIET, PromptJobs: 1, PromptGpuSeconds: 64 },
    })
    await scaleGroup(INPUT, clients, NOW)
    expect(setTo()).toEqual([1])
  })

  test('sets what the policy says by the backlog, and never above the most allowed', async () => {
    const { clients, setTo } = cloud({
      desired: 2,
      states: ['InService', 'InService'],
      metrics: { ...QUIET, PromptJobs: 50, PromptGpuSeconds: 3_200, BusyWorkers: 2 },
    })
    const { reason } = await scaleGroup(INPUT, clients, NOW)
    expect(setTo()).toEqual([8])
    expect(reason).toContain('8 is the most allowed')
  })

  test('stops machines that were idle together for long enough, and none that works', async () => {
    const minutes = Array.from({ length: 15 }, () => ({ running: 4, busy: 1 }))
    const { clients, setTo } = cloud({
      desired: 4,
      states: ['InService', 'InService', 'InService', 'InService'],
      metrics: { ...QUIET, BusyWorkers: 1 },
      minutes,
    })
    await scaleGroup(INPUT, clients, NOW)
    expect(setTo()).toEqual([2])
  })

  test('leaves the fleet as it is when the sweep has been silent, and says so', async () => {
    const { clients, setTo } = cloud({
      desired: 3,
      states: ['InService', 'InService', 'InService'],
      metrics: QUIET,
      ageSeconds: 600,
    })
    await expect(scaleGroup(INPUT, clients, NOW)).rejects.toThrow(/has not published/)
    expect(setTo()).toEqual([])
  })

  test('does not call when there is nothing to change', async () => {
    const { clients, setTo } = cloud({
      desired: 1,
      states: ['InService'],
      metrics: { ...QUIET, BusyWorkers: 1 },
      minutes: [{ running: 1, busy: 1 }],
    })
    await scaleGroup(INPUT, clients, NOW)
    expect(setTo()).toEqual([])
  })
})

describe('the snapshot', () => {
  test('counts one that waits in its launch hook as starting, and one in its leave hook as draining', () => {
    const snapshot = fleetSnapshotOf(
      {
        lifecycleStates: ['Pending:Wait', 'InService', 'Terminating:Wait', 'Pending'],
        launchedAtMs: [NOW.getTime() - 90_000],
        endedAtMs: [],
        metrics: { ...QUIET, BusyWorkers: 3 },
        idleByMinute: [],
      },
      NOW.getTime(),
    )
    expect(snapshot).toMatchObject({ running: 1, busy: 1, starting: 2, draining: 1 })
    expect([snapshot.sinceScaleOutSeconds, snapshot.sinceScaleInSeconds]).toEqual([90, Infinity])
  })

  test('a machine that was busy for one minute in between was not idle for long', () => {
    const at = (minutes: number) => NOW.getTime() - minutes * 60_000
    const snapshot = fleetSnapshotOf(
      {
        lifecycleStates: ['InService', 'InService'],
        launchedAtMs: [],
        endedAtMs: [],
        metrics: QUIET,
        idleByMinute: [
          { atMs: at(14), idle: 2 },
          { atMs: at(4), idle: 1 },
          { atMs: at(3), idle: 2 },
        ],
      },
      NOW.getTime(),
    )
    expect(snapshot.spareSeconds).toEqual([14 * 60, 3 * 60])
    expect(snapshot.spareSeconds.filter((seconds) => seconds >= IDLE_SECONDS)).toHaveLength(1)
  })
})
