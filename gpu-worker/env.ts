import { hostname } from 'node:os'
import { z } from 'zod'

const optional = z.string().min(1).optional()

const schema = z
  .object({
    DATABASE_URL: z.string().regex(/^postgres(ql)?:\/\//, 'must begin with postgres://'),
    SQS_QUEUE_URL: z.url(),
    /** Without it dead letters are left to somebody else. */
    SQS_DLQ_URL: z.url().optional(),
    SQS_ENDPOINT: z.url().optional(),
    AWS_REGION: z.string().default('us-east-1'),
    AWS_ACCESS_KEY_ID: optional,
    AWS_SECRET_ACCESS_KEY: optional,
    AWS_SESSION_TOKEN: optional,
    OBJECT_DIR: optional,
    S3_BUCKET: optional,
    S3_ENDPOINT: z.url().optional(),
    MODEL_DIR: z.string().min(1),
    /** Absent: what the engine finds best. */
    THREADS: z.coerce.number().int().min(1).max(256).optional(),
    PROVIDER: z.enum(['cpu', 'cuda']).default('cpu'),
    /** With both, the gateway is told of every finished job, so that webhooks leave at once. */
    GATEWAY_URL: z.url({ protocol: /^https?$/ }).optional(),
    /** The secret of the gateway's internal routes, derived from its pepper with the label `internal`. */
    POKE_SECRET: optional,
    WORKER_ID: z
      .string()
      .max(128)
      .default(() => `${hostname()}:${process.pid}`),
  })
  .refine((env) => env.OBJECT_DIR !== undefined || env.S3_BUCKET !== undefined, {
    path: ['OBJECT_DIR or S3_BUCKET'],
    error: 'one of them is needed',
    // The other variables' problems must not hide this one.
    when: () => true,
  })

export type WorkerEnv = z.output<typeof schema>

/** The checked environment of this process. @throws naming every bad or missing variable at once */
export function readWorkerEnv(): WorkerEnv {
  return parseWorkerEnv(process.env)
}

/** @throws naming every bad or missing variable at once, never its value */
export function parseWorkerEnv(values: Record<string, string | undefined>): WorkerEnv {
  const parsed = schema.safeParse(values)
  if (parsed.success) return parsed.data
  const lines = parsed.error.issues.map(({ path, message }) => {
    const name = path.join('.')
    const isMissing = name in schema.shape && values[name] === undefined
    return `  ${name}: ${isMissing ? 'is not set' : message}`
  })
  throw new Error(`The environment is not complete:\n${lines.join('\n')}`)
}

/** Credentials when both halves are set and lasting; otherwise the SDK looks in the usual places. */
export function awsCredentials(env: WorkerEnv): {
  credentials?: { accessKeyId: string; secretAccessKey: string }
} {
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = env
  const isLasting = accessKeyId && secretAccessKey && env.AWS_SESSION_TOKEN === undefined
  return isLasting ? { credentials: { accessKeyId, secretAccessKey } } : {}
}
