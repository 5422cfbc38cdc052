import type { GpuInstance } from './environments.ts'

/**
 * List prices in US East (N. Virginia), in dollars, without free tiers and discounts. Each says what was read and of
 * which day it is. The AWS price list itself was read by others, who published what it said; read it again before
 * anything is bought.
 */
export const PRICES_OF = 'March to October 2026'

/**
 * On demand, Linux. p5.4xlarge: a public report's reading of the AWS price list of 2026-09-29, and the undated catalogue
 * of SkyPilot, made of that list; an eighth of a p5.48xlarge, 55.04, in a reading of 2026-11-09. g6e: answers of the AWS
 * Pricing API on 2026-08-17. That a p5.4xlarge has a price does not say that a zone has one to spare.
 */
export const HOURLY_DOLLARS: Readonly<Record<GpuInstance, number>> = {
  'p5.4xlarge': 6.88,
  'g6e.8xlarge': 4.52856,
  'g6e.4xlarge': 3.00424,
}
/**
 * A guess on the dear side, for spot has no list price: a p5.4xlarge was had for 2.54 in US East (Ohio) on 2026-09-26, a
 * share of 0.37. SkyPilot's catalogue has no spot price for one in N. Virginia; a p5.48xlarge there costs from 0.19 to
 * 0.47 of its list price in five zones, and all of it in two.
 */
export const SPOT_SHARE = 0.5
/** Aurora Serverless v2, standard storage: AWS's own sizing script, github.com/aws/agent-toolkit-for-aws, of 2026-03-28. */
export const ACU_HOUR_DOLLARS = 0.12
/** The same script. */
export const DATABASE_GIB_MONTH_DOLLARS = 0.1
/** Standard, the first 50 TB: AWS price list, read 2026-10-08; the same in its edition of 2026-08-07. */
export const S3_GIB_MONTH_DOLLARS = 0.023
/** AWS announced it for 2024-02-01; unchanged in a reading of the price list of August 2026. */
export const PUBLIC_ADDRESS_HOUR_DOLLARS = 0.005
/** gp3: AWS price list, read 2026-10-08. */
export const EBS_GIB_MONTH_DOLLARS = 0.08
/** aws.amazon.com/secrets-manager/pricing, as transcribed 2026-09-20. */
export const SECRET_MONTH_DOLLARS = 0.4
/** aws.amazon.com/kms/pricing, an undated copy; unchanged in a guide of March 2026. Each yearly rotation adds as much. */
export const KEY_MONTH_DOLLARS = 1
/** A custom metric of the first 10,000: AWS price list, edition of 2026-08-06. */
export const METRIC_MONTH_DOLLARS = 0.3
/** Of standard resolution: the same edition. */
export const ALARM_MONTH_DOLLARS = 0.1
/** A guide to CloudWatch's prices of 2026-06-13. */
export const DASHBOARD_MONTH_DOLLARS = 3
/** t4g.nano, on demand: an answer of the AWS Pricing API on 2026-08-22. */
export const TUNNEL_HOUR_DOLLARS = 0.0042
/**
 * Cloudflare Workers, paid plan, with ten million requests: developers.cloudflare.com/workers/platform/pricing, an
 * undated copy; unchanged in a reading of 2026-08-03.
 */
export const WORKERS_MONTH_DOLLARS = 5
