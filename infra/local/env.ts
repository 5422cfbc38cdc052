/** Variables that replace an embedded part, and those that the parts need then. */
export interface LocalEnv {
  DATABASE_URL: string | undefined
  SQS_QUEUE_URL: string | undefined
  SQS_DLQ_URL: string | undefined
  SQS_ENDPOINT: string | undefined
  S3_BUCKET: string | undefined
  MODEL_DIR: string | undefined
  KEY_PEPPER: string | undefined
}

/** What the user has named. */
export function readLocalEnv(): LocalEnv {
  const { env } = process
  return {
    DATABASE_URL: env.DATABASE_URL,
    SQS_QUEUE_URL: env.SQS_QUEUE_URL,
    SQS_DLQ_URL: env.SQS_DLQ_URL,
    SQS_ENDPOINT: env.SQS_ENDPOINT,
    S3_BUCKET: env.S3_BUCKET,
    MODEL_DIR: env.MODEL_DIR,
    KEY_PEPPER: env.KEY_PEPPER,
  }
}

/** The environment of a child: ours, with these on top. */
export function childEnv(own: Record<string, string | undefined>): NodeJS.ProcessEnv {
  return { ...process.env, ...own }
}
