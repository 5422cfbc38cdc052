import { CloudWatchClient, PutMetricDataCommand } from '@aws-sdk/client-cloudwatch'
import { readBacklog } from '../db/backlog.ts'
import type { Db } from '../db/client.ts'
import { FLEET_METRICS, fleetMetricsOf } from '../db/fleet-metrics.ts'
import type { FleetMetrics } from '../db/fleet-metrics.ts'
import { CLASS_BOUNDS } from '../db/size-classes.ts'

/** Where the figures go that the fleet is scaled by. */
export type PublishFleet = (metrics: FleetMetrics) => Promise<void>

/** More open jobs than any fleet works off in a day; reading them takes some milliseconds. */
const MAX_JOBS = 20_000
/** The figures of the next beat are worth more than these. */
const PUBLISH_TIMEOUT_MS = 5_000

/** A publisher to CloudWatch, or to anything that speaks its protocol. Makes no call yet. */
export function createFleetPublisher(settings: {
  namespace: string
  region: string
  endpoint?: string
  credentials?: { accessKeyId: string; secretAccessKey: string; sessionToken?: string }
}): PublishFleet {
  const { namespace: Namespace, ...rest } = settings
  const client = new CloudWatchClient({ ...rest, maxAttempts: 2 })
  return async (metrics) => {
    const command = new PutMetricDataCommand({
      Namespace,
      MetricData: FLEET_METRICS.map((MetricName) => ({
        MetricName,
        Value: metrics[MetricName],
        Unit: MetricName.endsWith('Seconds') ? 'Seconds' : 'Count',
      })),
    })
    await client.send(command, { abortSignal: AbortSignal.timeout(PUBLISH_TIMEOUT_MS) })
  }
}

/**
 * Counts what waits and publishes it; nothing where no publisher is set up. Safe to run in several processes at once:
 * they publish the same.
 *
 * @returns how many open jobs were counted
 */
export async function publishFleetDue(deps: {
  db: Db
  publishFleet?: PublishFleet
}): Promise<number> {
  if (deps.publishFleet === undefined) return 0
  const backlog = await readBacklog(deps.db, { classBounds: CLASS_BOUNDS, limit: MAX_JOBS })
  await deps.publishFleet(fleetMetricsOf(backlog))
  return backlog.groups.reduce((sum, { jobs }) => sum + jobs, 0)
}
