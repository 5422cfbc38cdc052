import { hostname } from 'node:os'
import { z } from 'zod'

const optional = z.string().optional()

export const workerSchema = z
  .object({
    DATABASE_URL: z.string().regex(/^postgres(ql)?:\/\//, 'must begin with postgres://'),
    SQS_QUEUE_URL: z.url(),
    /** Without it dead letters are left to somebody else. */
    SQS_DLQ_URL: z.url().optional(),
    /** Of jobs that may take a day; asked after the other one. */
    SQS_BATCH_QUEUE_URL: z.url().optional(),
    SQS_ENDPOINT: z.url().optional(),
    /** These three replace those of AWS for the queue alone, where queue and bucket are not of one account. */
    SQS_REGION: optional,
    SQS_ACCESS_KEY_ID: optional,
    SQS_SECRET_ACCESS_KEY: optional,
    AWS_REGION: z.string().default('us-east-1'),
    AWS_ACCESS_KEY_ID: optional,
    AWS_SECRET_ACCESS_KEY: optional,
    /** Comes with keys that end after some hours. */
    AWS_SESSION_TOKEN: optional,
    OBJECT_DIR: optional,
    S3_BUCKET: optional,
    S3_ENDPOINT: z.url().optional(),
    MODEL_DIR: z.string().min(1).optional(),
    /** A server of OpenAI's images protocol that draws in place of the engine of this process. */
    ENGINE_URL: z.url({ protocol: /^https?$/ }).optional(),
    ENGINE_API_KEY: optional,
    /** Which of its models; absent: the first that it lists. */
    ENGINE_MODEL: optional,
    /** Absent: what the engine finds best. */
    THREADS: z.coerce.number().int().min(1).max(256).optional(),
    PROVIDER: z.enum(['cpu', 'cuda']).default('cpu'),
    /** How onnxruntime is reached: by its own binding, or by its C interface. Absent: see `DEFAULT_BACKEND`. */
    ENGINE_BACKEND: z.enum(['node', 'capi']).optional(),
    /** Jobs at once: their layouts are written together, and one is painted meanwhile. Absent: see `slotsOf`. */
    SLOTS: z.coerce.number().int().min(1).max(16).optional(),
    /** int8: the writer takes 8-bit weights, which `npm run model:quantise` makes: faster and not the same picture. */
    AR_WEIGHTS: z.enum(['stored', 'int8']).default('stored'),
    /** Above 0 steps that would change little are left out: faster and not the same picture. See `createStepCache`. */
    STEP_CACHE: z.coerce.number().min(0).max(10).default(0),
    /** Above 0 blocks of steps that would change little are left out, in place of whole steps. See `openSplitBlocks`. */
    FIRST_BLOCK_CACHE: z.coerce.number().min(0).max(10).default(0),
    /** 1: on an EC2 instance, whose metadata says when it is taken away. An address: of another such service. */
    IMDS: z.union([z.enum(['0', '1']), z.url({ protocol: /^http$/ })]).default('0'),
    /** The scaling group of the instance, which is told when the worker is ready, at work and gone. */
    GROUP_NAME: z.string().min(1).optional(),
    AUTO_SCALING_ENDPOINT: z.url().optional(),
    /** With both, the gateway is told of every finished job, so that webhooks leave at once. */
    GATEWAY_URL: z.url({ protocol: /^https?$/ }).optional(),
    /** The secret of the gateway's internal routes, derived from its pepper with the label `internal`. */
    POKE_SECRET: optional,
    /** Port on which this process shows its figures for Prometheus, at `/metrics`; 0: a free one, which the log names. Absent: none. */
    METRICS_PORT: z.coerce.number().int().min(0).max(65_535).optional(),
    /** The figures tell of the business as a whole: open them to whoever collects them and to nobody else. */
    METRICS_HOST: z.string().default('127.0.0.1'),
    /** Base address of a collector of OpenTelemetry's protocol over HTTP, which is sent traces. Other standard `OTEL_` variables hold too. Absent: none. */
    OTEL_EXPORTER_OTLP_ENDPOINT: z.url({ protocol: /^https?$/ }).optional(),
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
  .refine((env) => (env.MODEL_DIR === undefined) !== (env.ENGINE_URL === undefined), {
    path: ['MODEL_DIR or ENGINE_URL'],
    error: 'one of them is needed, and not both',
    when: () => true,
  })
  .refine((env) => !(env.STEP_CACHE > 0 && env.FIRST_BLOCK_CACHE > 0), {
    path: ['STEP_CACHE or FIRST_BLOCK_CACHE'],
    error: 'not both',
    when: () => true,
  })

export type WorkerEnv = z.output<typeof workerSchema>

/** The checked environment of this process. @throws naming every bad or missing variable at once */
export function readWorkerEnv(): WorkerEnv {
  return parseWorkerEnv(process.env)
}

/** Half a pair would be a reason to look elsewhere, and to call as somebody that nobody named. */
const PAIRS = [
  ['AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY'],
  ['SQS_ACCESS_KEY_ID', 'SQS_SECRET_ACCESS_KEY'],
] as const

/**
 * An empty variable counts as one that is not set: that is how compose files leave one out.
 *
 * @throws naming every bad or missing variable at once, never its value
 */
export function parseWorkerEnv(values: Record<string, string | undefined>): WorkerEnv {
  const given = new Map(Object.entries(values).filter(([, value]) => value))
  const parsed = workerSchema.safeParse(Object.fromEntries(given))
  const halves = PAIRS.filter(([id, secret]) => given.has(id) !== given.has(secret))
  if (parsed.success && halves.length === 0) return parsed.data
  const lines = (parsed.error?.issues ?? []).map(({ path, message }) => {
    const name = path.join('.')
    const isMissing = name in workerSchema.shape && !given.has(name)
    return `  ${name}: ${isMissing ? 'is not set' : message}`
  })
  lines.push(...halves.map((names) => `  ${names.join(', ')}: one needs the other`))
  throw new Error(`The environment is not complete:\n${lines.join('\n')}`)
}

/**
 * How many jobs a worker works on at once. A processor gains nothing from two. On a card painting takes the longer part
 * of a picture, so a few layouts written ahead keep it busy; more would only wait here while other workers are free.
 */
export function slotsOf({ SLOTS, PROVIDER }: WorkerEnv): number {
  return SLOTS ?? (PROVIDER === 'cuda' ? 4 : 1)
}

/** Where a service is, and as whom it is called. */
export interface AwsPlace {
  region: string
  endpoint?: string
  /** Absent: the SDK looks in the usual places, such as a profile or the role of the machine. */
  credentials?: { accessKeyId: string; secretAccessKey: string; sessionToken?: string }
}

/** Which queues there are. */
export function queueUrls(env: WorkerEnv): { queueUrl: string; batchQueueUrl?: string } {
  const { SQS_QUEUE_URL: queueUrl, SQS_BATCH_QUEUE_URL: batchQueueUrl } = env
  return { queueUrl, ...(batchQueueUrl === undefined ? {} : { batchQueueUrl }) }
}

/** How the queue is reached: by its own variables, else by those of AWS. */
export function queuePlace(env: WorkerEnv): AwsPlace {
  const { SQS_ACCESS_KEY_ID: accessKeyId, SQS_SECRET_ACCESS_KEY: secretAccessKey } = env
  const isOwn = accessKeyId !== undefined && secretAccessKey !== undefined
  return {
    region: env.SQS_REGION ?? env.AWS_REGION,
    ...(env.SQS_ENDPOINT === undefined ? {} : { endpoint: env.SQS_ENDPOINT }),
    ...(isOwn ? { credentials: { accessKeyId, secretAccessKey } } : awsCredentials(env)),
  }
}

/** How the bucket is reached. */
export function bucketPlace(env: WorkerEnv): AwsPlace {
  return {
    region: env.AWS_REGION,
    ...(env.S3_ENDPOINT === undefined ? {} : { endpoint: env.S3_ENDPOINT }),
    ...awsCredentials(env),
  }
}

function awsCredentials(env: WorkerEnv): Pick<AwsPlace, 'credentials'> {
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = env
  if (accessKeyId === undefined || secretAccessKey === undefined) return {}
  const { AWS_SESSION_TOKEN: sessionToken } = env
  const credentials = { accessKeyId, secretAccessKey }
  return {
    credentials: sessionToken === undefined ? credentials : { ...credentials, sessionToken },
  }
}
