import type { AutoScalingClient } from '@aws-sdk/client-auto-scaling'
import type { CloudWatchClient } from '@aws-sdk/client-cloudwatch'
import {
  DescribeAutoScalingGroupsCommand,
  DescribeScalingActivitiesCommand,
  SetDesiredCapacityCommand,
} from '@aws-sdk/client-auto-scaling'
import { GetMetricDataCommand } from '@aws-sdk/client-cloudwatch'
import { FLEET_METRICS } from '../../db/fleet-metrics.ts'
import type { FleetMetrics } from '../../db/fleet-metrics.ts'
import { fleetSnapshotOf } from '../fleet/fleet-snapshot.ts'
import { LAST_IDLE_SECONDS, decideScale } from '../fleet/scaling-policy.ts'
import type { ScalingSettings } from '../fleet/scaling-policy.ts'

/** What the function is told at its deployment. */
export interface ScalerInput {
  readonly groupName: string
  readonly namespace: string
  readonly settings: ScalingSettings
}

const PERIOD_SECONDS = 60
/** Longer than the longest idleness that the policy asks about. */
const HISTORY_SECONDS = LAST_IDLE_SECONDS + 5 * PERIOD_SECONDS
/** Older figures than these say nothing about now; the fleet then stays as it is, and an alarm tells the operator. */
const STALE_SECONDS = 180

/**
 * Asks the policy, the one that `npm run simulate` plays, and sets what the group should have. Runs every minute; safe
 * to repeat.
 *
 * @throws when the figures of the sweep are missing or old
 */
export async function scaleGroup(
  input: ScalerInput,
  clients: { group: AutoScalingClient; metrics: CloudWatchClient },
  now: Date,
): Promise<{ before: number; desired: number; reason: string }> {
  const { groupName, settings } = input
  const [group, activities, series] = await Promise.all([
    readGroup(clients.group, groupName),
    readActivities(clients.group, groupName),
    readSeries(clients.metrics, input, now),
  ])
  const snapshot = fleetSnapshotOf(
    {
      ...activities,
      lifecycleStates: group.lifecycleStates,
      metrics: newest(series, now),
      idleByMinute: idleOf(series),
    },
    now.getTime(),
  )
  const { desired, reason } = decideScale(snapshot, settings)
  if (desired !== group.desired) {
    await clients.group.send(
      new SetDesiredCapacityCommand({
        AutoScalingGroupName: groupName,
        DesiredCapacity: desired,
        HonorCooldown: false,
      }),
    )
  }
  return { before: group.desired, desired, reason }
}

async function readGroup(client: AutoScalingClient, name: string) {
  const answer = await client.send(
    new DescribeAutoScalingGroupsCommand({ AutoScalingGroupNames: [name] }),
  )
  const group = answer.AutoScalingGroups?.[0]
  if (!group) throw new Error(`there is no scaling group ${name}`)
  return {
    desired: group.DesiredCapacity ?? 0,
    lifecycleStates: (group.Instances ?? []).map((instance) => String(instance.LifecycleState)),
  }
}

async function readActivities(client: AutoScalingClient, name: string) {
  const answer = await client.send(
    new DescribeScalingActivitiesCommand({ AutoScalingGroupName: name, MaxRecords: 100 }),
  )
  const timesOf = (begin: string) =>
    (answer.Activities ?? [])
      .filter(({ Description }) => Description?.startsWith(begin))
      .flatMap(({ StartTime }) => (StartTime ? [StartTime.getTime()] : []))
  return { launchedAtMs: timesOf('Launching'), endedAtMs: timesOf('Terminating') }
}

/** Values by minute. */
type Series = Map<string, Map<number, number>>

async function readSeries(
  client: CloudWatchClient,
  { namespace, groupName }: ScalerInput,
  now: Date,
): Promise<Series> {
  const stat = (id: string, Metric: object) => ({
    Id: id,
    MetricStat: { Metric, Period: PERIOD_SECONDS, Stat: 'Maximum' },
  })
  const own = FLEET_METRICS.map((MetricName, index) =>
    stat(`m${index}`, { Namespace: namespace, MetricName }),
  )
  const running = stat('running', {
    Namespace: 'AWS/AutoScaling',
    MetricName: 'GroupInServiceInstances',
    Dimensions: [{ Name: 'AutoScalingGroupName', Value: groupName }],
  })
  const answer = await client.send(
    new GetMetricDataCommand({
      MetricDataQueries: [...own, running],
      StartTime: new Date(now.getTime() - HISTORY_SECONDS * 1_000),
      EndTime: now,
      ScanBy: 'TimestampAscending',
    }),
  )
  const nameOf = (id: string) =>
    id === 'running' ? id : (FLEET_METRICS[Number(id.slice(1))] ?? id)
  return new Map(
    (answer.MetricDataResults ?? []).map(({ Id = '', Timestamps = [], Values = [] }) => [
      nameOf(Id),
      new Map(Timestamps.map((time, index) => [time.getTime(), Values[index] ?? 0])),
    ]),
  )
}

function newest(series: Series, now: Date): FleetMetrics {
  const values = FLEET_METRICS.map((name): [string, number] => {
    const last = [...(series.get(name) ?? [])].at(-1)
    if (!last || now.getTime() - last[0] > STALE_SECONDS * 1_000) {
      throw new Error(`the sweep has not published ${name} for ${STALE_SECONDS} s`)
    }
    return [name, last[1]]
  })
  return Object.fromEntries(values) as unknown as FleetMetrics
}

function idleOf(series: Series): { atMs: number; idle: number }[] {
  const busy = series.get('BusyWorkers') ?? new Map<number, number>()
  return [...(series.get('running') ?? [])].flatMap(([atMs, running]) => {
    const atWork = busy.get(atMs)
    return atWork === undefined ? [] : [{ atMs, idle: running - atWork }]
  })
}
