import { z } from '@hono/zod-openapi'
import { LONGEST_WAIT_MS } from './waiter.ts'

const flag = z.enum(['0', '1']).optional()
const pepper = z.string().min(32, 'must have at least 32 characters')

/** What both entries read from their surroundings. No secret and no address has a default. */
const shared = {
  DATABASE_URL: z.string().regex(/^postgres(ql)?:\/\//, 'must begin with postgres://'),
  KEY_PEPPER: pepper,
  /** The pepper before the current one, while a rotation lasts: keys and URLs made under it stay good. */
  KEY_PEPPER_PREVIOUS: pepper.optional(),
  PUBLIC_URL: z.url({ protocol: /^https?$/ }),
  SQS_QUEUE_URL: z.url(),
  SQS_ENDPOINT: z.url().optional(),
  AWS_REGION: z.string().default('us-east-1'),
  AWS_ACCESS_KEY_ID: z.string().optional(),
  AWS_SECRET_ACCESS_KEY: z.string().optional(),
  S3_BUCKET: z.string().optional(),
  S3_ENDPOINT: z.url().optional(),
  /** 1: callers can reach the bucket, so that results may be fetched from it by a short presigned URL. */
  S3_PUBLIC: flag,
  /** Synchronous calls hand over to their task id after this; lower it below a proxy's own time limit. */
  SYNC_WAIT_SECONDS: z.coerce.number().int().min(1).max(290).optional(),
}

const workersSchema = z
  .object({
    ...shared,
    DATABASE_URL: shared.DATABASE_URL.optional(),
    S3_BUCKET: z.string(),
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

const nodeSchema = z.object({
  ...shared,
  PORT: z.coerce.number().int().min(0).max(65_535).default(8787),
  HOST: z.string().default('127.0.0.1'),
  OBJECT_DIR: z.string().optional(),
  WEBHOOK_ALLOW_LOOPBACK: flag,
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

function parse<Schema extends z.ZodType>(schema: Schema, values: unknown): z.output<Schema> {
  const parsed = schema.safeParse(values)
  if (parsed.success) return parsed.data
  const lines = parsed.error.issues.map((issue) => {
    const isMissing = issue.code === 'invalid_type' && issue.input === undefined
    return `  ${issue.path.join('.')}: ${isMissing ? 'is not set' : issue.message}`
  })
  throw new Error(`The environment is not complete:\n${lines.join('\n')}`)
}

/** How long synchronous calls wait. */
export function syncWaitMs(env: { SYNC_WAIT_SECONDS?: number | undefined }): number {
  return env.SYNC_WAIT_SECONDS === undefined ? LONGEST_WAIT_MS : env.SYNC_WAIT_SECONDS * 1000
}

/** Credentials when both halves are set; otherwise the SDK looks in the usual places. */
export function awsCredentials(env: {
  AWS_ACCESS_KEY_ID?: string | undefined
  AWS_SECRET_ACCESS_KEY?: string | undefined
}): { credentials?: { accessKeyId: string; secretAccessKey: string } } {
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = env
  return accessKeyId && secretAccessKey ? { credentials: { accessKeyId, secretAccessKey } } : {}
}
