import { readFile } from 'node:fs/promises'

import { CheckpointError } from './checkpoint-error.ts'

/**
 * Reads a JSON file whose outermost value is an object.
 *
 * @throws CheckpointError naming the file
 */
export async function readJsonObject(path: string): Promise<Record<string, unknown>> {
  const text = await readTextIfThere(path)
  if (text === null) throw new CheckpointError(`${path}: file is missing`)
  const value = parseJson(text, path)
  if (isRecord(value)) return value
  throw new CheckpointError(`${path}: not a JSON object`)
}

/**
 * Reads a text file; null when there is none.
 *
 * @throws CheckpointError naming the file when it cannot be read
 */
export async function readTextIfThere(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8')
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw new CheckpointError(`${path}: cannot be read`, { cause })
  }
}

/** @throws CheckpointError naming the file that the text is from */
export function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new CheckpointError(`${path}: not valid JSON`, { cause })
  }
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
