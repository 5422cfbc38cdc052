import { parseNodeEnv } from '../env.ts'
import type { NodeEnv } from '../env.ts'

/** The checked environment of this process. @throws naming every bad or missing variable at once */
export function readNodeEnv(): NodeEnv {
  return parseNodeEnv(process.env)
}
