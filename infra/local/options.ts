import { parseArgs } from 'node:util'

export interface StartOptions {
  port: number
  stateDir: string
  /** Null: a server elsewhere draws. */
  modelDir: string | null
  /** What named the checkpoint, for complaints about it. */
  modelName: string
  /** Threads of the model; null leaves it to the runtime. */
  threads: number | null
  /** Whether to make and show another key. */
  isKeyWanted: boolean
}

export const HELP = `Usage: npm start -- [options]

Starts Glyphpress on this machine: database, queue, object store, gateway and one worker, on loopback only.

  --port N         port of the gateway (8787)
  --state-dir DIR  where data, pictures and secrets are kept (.glyphpress)
  --model DIR      checkpoint in the layout of GLM-Image (the bundled one)
  --threads N      threads of the model (all cores)
  --new-key        make and show another API key, for when the first one is lost
  --help           this text

A part is replaced by a real one by naming it: DATABASE_URL, SQS_QUEUE_URL, S3_BUCKET, MODEL_DIR, ENGINE_URL ("Real
parts" in README.md).`

/**
 * Reads the command line.
 *
 * @returns null when help is asked for
 * @throws naming the option and the rule
 */
export function readOptions(
  args: string[],
  env: { MODEL_DIR?: string | undefined; ENGINE_URL?: string | undefined },
): StartOptions | null {
  const values = parse(args)
  if (values.help) return null
  const modelName =
    values.model !== undefined
      ? '--model'
      : env.MODEL_DIR !== undefined
        ? 'MODEL_DIR'
        : 'The bundled checkpoint'
  const named = values.model ?? env.MODEL_DIR
  if (env.ENGINE_URL !== undefined && named !== undefined) {
    throw new Error(`${modelName} and ENGINE_URL: only one of them can draw`)
  }
  return {
    port: toInteger('--port', values.port, 1, 65_535),
    stateDir: values['state-dir'],
    modelDir: env.ENGINE_URL === undefined ? (named ?? 'gpu-worker/checkpoint') : null,
    modelName,
    threads: values.threads === undefined ? null : toInteger('--threads', values.threads, 1, 256),
    isKeyWanted: values['new-key'],
  }
}

function parse(args: string[]) {
  try {
    const { values } = parseArgs({
      args,
      options: {
        port: { type: 'string', default: '8787' },
        'state-dir': { type: 'string', default: '.glyphpress' },
        model: { type: 'string' },
        threads: { type: 'string' },
        'new-key': { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    })
    return values
  } catch (cause) {
    // Its first sentence says what is wrong; the rest is about other programs.
    const [problem] = (cause as Error).message.split('. ')
    throw new Error(
      `${problem}.\nOptions come after two dashes, such as: npm start -- --port 8788\nAll of them: npm start -- --help`,
      { cause },
    )
  }
}

function toInteger(name: string, text: string, least: number, most: number): number {
  const value = Number(text)
  if (Number.isInteger(value) && value >= least && value <= most) return value
  throw new Error(`${name} must be a whole number from ${least} to ${most}, not "${text}"`)
}
