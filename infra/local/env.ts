/** Variables that replace an embedded part, and those that the parts need then. */
export interface LocalEnv {
  DATABASE_URL: string | undefined
  SQS_QUEUE_URL: string | undefined
  S3_BUCKET: string | undefined
  MODEL_DIR: string | undefined
  ENGINE_URL: string | undefined
  KEY_PEPPER: string | undefined
}

/**
 * What the user has named. An empty variable names nothing, as for the parts.
 *
 * @throws when a variable can be seen to be wrong before anything is started
 */
export function readLocalEnv(): LocalEnv {
  const { env } = process
  if (env.DATABASE_URL && !/^postgres(ql)?:\/\//.test(env.DATABASE_URL))
    throw new Error('DATABASE_URL must begin with postgres://')
  return {
    DATABASE_URL: env.DATABASE_URL || undefined,
    SQS_QUEUE_URL: env.SQS_QUEUE_URL || undefined,
    S3_BUCKET: env.S3_BUCKET || undefined,
    MODEL_DIR: env.MODEL_DIR || undefined,
    ENGINE_URL: env.ENGINE_URL || undefined,
    KEY_PEPPER: env.KEY_PEPPER || undefined,
  }
}

/** The environment of a child: ours, with these on top. */
export function childEnv(own: Record<string, string | undefined>): NodeJS.ProcessEnv {
  return { ...process.env, ...own }
}
