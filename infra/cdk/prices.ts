import type { GpuInstance } from './environments.ts'

/**
 * List prices in US East (N. Virginia), in dollars. To be read again before anything is bought: what they were when this
 * was written is all that the table made of them says.
 */
export const PRICES_OF = '2026-11-24'

/** On demand, Linux. The p5.4xlarge as two notes of 2026 read AWS's list; the others by AWS's list of 2025. */
export const HOURLY_DOLLARS: Readonly<Record<GpuInstance, number>> = {
  'p5.4xlarge': 6.88,
  'g6e.8xlarge': 4.52856,
  'g6e.4xlarge': 3.00424,
}
/** Third parties put spot at 50 to 65 % below on demand; the dearer end. */
export const SPOT_SHARE = 0.5
/** Aurora Serverless v2, standard storage. */
export const ACU_HOUR_DOLLARS = 0.12
export const DATABASE_GIB_MONTH_DOLLARS = 0.1
export const S3_GIB_MONTH_DOLLARS = 0.023
export const SQS_MILLION_DOLLARS = 0.4
export const PUBLIC_ADDRESS_HOUR_DOLLARS = 0.005
export const EBS_GIB_MONTH_DOLLARS = 0.08
export const SECRET_MONTH_DOLLARS = 0.4
export const METRIC_MONTH_DOLLARS = 0.3
export const ALARM_MONTH_DOLLARS = 0.1
export const DASHBOARD_MONTH_DOLLARS = 3
export const TUNNEL_HOUR_DOLLARS = 0.0042
/** Cloudflare Workers, paid plan, with Hyperdrive and ten million requests. */
export const WORKERS_MONTH_DOLLARS = 5
