import { z } from '@hono/zod-openapi'
import { MIN_PEPPER_CHARACTERS } from './pepper.ts'
import { LONGEST_WAIT_MS } from './waiter.ts'

const flag = z.enum(['0', '1']).optional()
const pepper = z
  .string()
  .min(MIN_PEPPER_CHARACTERS, `must have at least ${MIN_PEPPER_CHARACTERS} characters`)

/** What both entries read from their surroundings. No secret and no address has a default. */
const shared = {
  DATABASE_URL: z.string().regex(/^postgres(ql)?:\/\//, 'must begin with postgres://'),
  KEY_PEPPER: pepper,
  /** The pepper before the current one, while a rotation lasts: keys and URLs made under it stay good. */
  KEY_PEPPER_PREVIOUS: pepper.optional(),
  PUBLIC_URL: z.url({ protocol: /^https?$/ }),
  SQS_QUEUE_URL: z.url(),
  /** For jobs that may take a day; absent: they share the other queue. */
  SQS_BATCH_QUEUE_URL: z.url().optional(),
  SQS_ENDPOINT: z.url().optional(),
  /** These three replace those of AWS for the queue alone, where queue and bucket are not of one account. */
  SQS_REGION: z.string().optional(),
  SQS_ACCESS_KEY_ID: z.string().optional(),
  SQS_SECRET_ACCESS_KEY: z.string().optional(),
  AWS_REGION: z.string().default('us-east-1'),
  AWS_ACCESS_KEY_ID: z.string().optional(),
  AWS_SECRET_ACCESS_KEY: z.string().optional(),
  /** Comes with keys that end after some hours. */
  AWS_SESSION_TOKEN: z.string().optional(),
  S3_BUCKET: z.string().optional(),
  S3_ENDPOINT: z.url().optional(),
  /** 1: callers can reach the bucket, so that results may be fetched from it by a short presigned URL. */
  S3_PUBLIC: flag,
  /** CloudWatch's name for the figures that a fleet is scaled by; absent: none are published. */
  METRIC_NAMESPACE: z.string().min(1).max(255).optional(),
  CLOUDWATCH_ENDPOINT: z.url().optional(),
  /** With it and the next one payments and invoices go through Stripe. */
  STRIPE_SECRET_KEY: z.string().min(1).optional(),
  /** Signing secrets of the webhook endpoints, with commas between them. */
  STRIPE_WEBHOOK_SECRET: z.string().min(1).optional(),
  /** Where the API is, if not at Stripe. */
  STRIPE_API_BASE: z.url({ protocol: /^https?$/ }).optional(),
  /** Synchronous calls hand over to their task id after this; lower it below a proxy's own time limit. */
  SYNC_WAIT_SECONDS: z.coerce.number().int().min(1).max(290).optional(),
}

/** By W3C Baggage, as the SDK that Node has reads them. */
function parseHeaders(text: string, context: z.RefinementCtx): Record<string, string> {
  try {
    const pairs = text.split(',').filter((pair) => pair.trim() !== '')
    const headers = new Headers(pairs.map((pair) => toHeader(pair)))
    return Object.fromEntries(headers)
  } catch {
    context.addIssue('must be name=value pairs with commas between')
    return z.NEVER
  }
}

function toHeader(pair: string): [name: string, value: string] {
  const at = pair.indexOf('=')
  if (at < 1) throw new TypeError('no name')
  return [pair.slice(0, at).trim(), decodeURIComponent(pair.slice(at + 1).trim())]
}

export const workersSchema = z
  .object({
    ...shared,
    DATABASE_URL: shared.DATABASE_URL.optional(),
    // On Workers there is no other place where the SDK could find them.
    AWS_ACCESS_KEY_ID: z.string(),
    AWS_SECRET_ACCESS_KEY: z.string(),
    S3_BUCKET: z.string(),
    /** Base address of a collector of OpenTelemetry's protocol over HTTP, which is sent traces. Absent: none. */
    OTEL_EXPORTER_OTLP_ENDPOINT: z.url({ protocol: /^https?$/ }).optional(),
    /** What the collector wants to see in the header, such as its key: `name=value`, with commas between. */
    OTEL_EXPORTER_OTLP_HEADERS: z.string().transform(parseHeaders).optional(),
    OTEL_SERVICE_NAME: z.string().min(1).default('glyphpress-gateway'),
    /** Share of the traces that begin at the gateway and are kept, 0 to 1; a caller's own choice goes first. */
    OTEL_TRACES_SAMPLER_ARG: z.coerce.number().min(0).max(1).default(1),
    /** The binding; where it leads is asked for with every request. */
    HYPERDRIVE: z.unknown().optional(),
  })
  .refine((env) => env.DATABASE_URL !== undefined || env.HYPERDRIVE !== undefined, {
    path: ['HYPERDRIVE'],
    error: 'or DATABASE_URL is needed',
    // Beside whatever else is wrong.
    when: () => true,
  })
export type WorkersEnv = z.output<typeof workersSchema>

export const nodeSchema = z.object({
  ...shared,
  PORT: z.coerce.number().int().min(0).max(65_535).default(8787),
  HOST: z.string().default('127.0.0.1'),
  OBJECT_DIR: z.string().optional(),
  WEBHOOK_ALLOW_LOOPBACK: flag,
  /** 0: the work that is due is left to `npm run sweep`. */
  SWEEP: flag,
  /** Port on which this process shows its figures for Prometheus, at `/metrics`; 0: a free one, which the log names. Absent: none. */
  METRICS_PORT: z.coerce.number().int().min(0).max(65_535).optional(),
  /** The figures tell of the business as a whole: open them to whoever collects them and to nobody else. */
  METRICS_HOST: z.string().default('127.0.0.1'),
  /** Base address of a collector of OpenTelemetry's protocol over HTTP, which is sent traces. Other standard `OTEL_` variables hold too. Absent: none. */
  OTEL_EXPORTER_OTLP_ENDPOINT: z.url({ protocol: /^https?$/ }).optional(),
  /**
   * The header in which the proxy in front of the gateway writes the caller's address, such as x-forwarded-for; its
   * last entry counts. Only for a gateway that can be reached through that proxy alone. Without it no header is
   * believed, and behind a proxy all callers count as one when unknown keys are refused.
   */
  CLIENT_ADDRESS_HEADER: z
    .string()
    .regex(/^[A-Za-z0-9-]+$/, 'must be the name of a header')
    .optional(),
})
export type NodeEnv = z.output<typeof nodeSchema>

/**
 * Checks the variables and bindings of the Worker entry.
 *
 * @throws naming every bad or missing one at once
 */
export function parseWorkersEnv(values: unknown): WorkersEnv {
  return parse(workersSchema, values)
}

/**
 * Checks the environment of the Node entry.
 *
 * @throws naming every bad or missing variable at once
 */
export function parseNodeEnv(values: unknown): NodeEnv {
  const env = parse(nodeSchema, values)
  if (env.OBJECT_DIR === undefined && env.S3_BUCKET === undefined) {
    throw new Error(
      'The environment is not complete:\n  OBJECT_DIR or S3_BUCKET: one of them is needed',
    )
  }
  return env
}

/** Half a pair would be a reason to look elsewhere, and to call as somebody that nobody named. */
const PAIRS = [
  ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'],
  ['SQS_ACCESS_KEY_ID', 'SQS_SECRET_ACCESS_KEY'],
] as const

/** An empty variable counts as one that is not set: that is how compose files leave one out. */
function parse<Schema extends z.ZodType>(schema: Schema, values: unknown): z.output<Schema> {
  const entries: [string, unknown][] = Object.entries(values ?? {})
  const given = new Map(entries.filter(([, value]) => value !== ''))
  const parsed = schema.safeParse(Object.fromEntries(given))
  const halves = PAIRS.filter(([id, secret]) => given.has(id) !== given.has(secret))
  if (parsed.success && halves.length === 0) return parsed.data
  const lines = (parsed.error?.issues ?? []).map((issue) => {
    const isMissing = issue.code === 'invalid_type' && issue.input === undefined
    return `  ${issue.path.join('.')}: ${isMissing ? 'is not set' : issue.message}`
  })
  lines.push(...halves.map((names) => `  ${names.join(', ')}: one needs the other`))
  throw new Error(`The environment is not complete:\n${lines.join('\n')}`)
}

/** How long synchronous calls wait. */
export function syncWaitMs(env: { SYNC_WAIT_SECONDS?: number | undefined }): number {
  return env.SYNC_WAIT_SECONDS === undefined ? LONGEST_WAIT_MS : env.SYNC_WAIT_SECONDS * 1000
}

/** Where a service is, and as whom it is called. */
export interface AwsPlace {
  region: string
  endpoint?: string
  /** Absent: the SDK looks in the usual places, such as a profile or the role of the machine. */
  credentials?: { accessKeyId: string; secretAccessKey: string; sessionToken?: string }
}

/** Which queues there are. */
export function queueUrls(env: NodeEnv | WorkersEnv): {
  queueUrl: string
  batchQueueUrl?: string
} {
  const { SQS_QUEUE_URL: queueUrl, SQS_BATCH_QUEUE_URL: batchQueueUrl } = env
  return { queueUrl, ...(batchQueueUrl === undefined ? {} : { batchQueueUrl }) }
}

/** How the queues are reached: by their own variables, else by those of AWS. */
export function queuePlace(env: NodeEnv | WorkersEnv): AwsPlace {
  const { SQS_ACCESS_KEY_ID: accessKeyId, SQS_SECRET_ACCESS_KEY: secretAccessKey } = env
  const isOwn = accessKeyId !== undefined && secretAccessKey !== undefined
  return {
    region: env.SQS_REGION ?? env.AWS_REGION,
    ...(env.SQS_ENDPOINT === undefined ? {} : { endpoint: env.SQS_ENDPOINT }),
    ...(isOwn ? { credentials: { accessKeyId, secretAccessKey } } : awsCredentials(env)),
  }
}

/** How the figures of the fleet are published; null where nobody asked for them. */
export function metricPlace(env: NodeEnv | WorkersEnv): (AwsPlace & { namespace: string }) | null {
  if (env.METRIC_NAMESPACE === undefined) return null
  return {
    namespace: env.METRIC_NAMESPACE,
    region: env.AWS_REGION,
    ...(env.CLOUDWATCH_ENDPOINT === undefined ? {} : { endpoint: env.CLOUDWATCH_ENDPOINT }),
    ...awsCredentials(env),
  }
}

/** How the bucket is reached. */
export function bucketPlace(env: NodeEnv | WorkersEnv): AwsPlace {
  return {
    region: env.AWS_REGION,
    ...(env.S3_ENDPOINT === undefined ? {} : { endpoint: env.S3_ENDPOINT }),
    ...awsCredentials(env),
  }
}

function awsCredentials(env: NodeEnv | WorkersEnv): Pick<AwsPlace, 'credentials'> {
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = env
  if (accessKeyId === undefined || secretAccessKey === undefined) return {}
  const { AWS_SESSION_TOKEN: sessionToken } = env
  const credentials = { accessKeyId, secretAccessKey }
  return {
    credentials: sessionToken === undefined ? credentials : { ...credentials, sessionToken },
  }
}
