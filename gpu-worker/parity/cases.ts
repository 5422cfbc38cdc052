import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Checkpoint } from '../model/checkpoint.ts'
import { CheckpointError } from '../model/checkpoint-error.ts'
import { openTensorFile } from '../model/safetensors.ts'
import { readIntegers, readTensor, readTensorBytes } from '../model/tensor-data.ts'
import type { StageOptions } from '../pipeline/glyph-encoder.ts'

const caseSchema = z.looseObject({
  name: z.string(),
  kind: z.string(),
  prompt: z.string().optional(),
  rendered_prompt: z.string().optional(),
  height: z.int().optional(),
  width: z.int().optional(),
  steps: z.int().optional(),
  guidance_scale: z.number().optional(),
  large_offset: z.int().optional(),
  mu: z.number().optional(),
  texts: z.array(z.string()).optional(),
  glyph_texts: z.array(z.string()).optional(),
})
export type ParityCase = z.output<typeof caseSchema>

/** What is compared with the reference. */
export interface ParitySubject {
  readonly checkpoint: Checkpoint
  /** Holds `checkpoint/` and `cases/`. */
  readonly dir: string
  readonly options: StageOptions
}

/** Tensors of one case. */
export interface CaseTensors {
  floats(name: string): Promise<Float32Array>
  integers(name: string): Promise<number[]>
  bytes(name: string): Promise<Uint8Array>
  shape(name: string): readonly number[]
  has(name: string): boolean
}

/**
 * Reads the list of cases of a folder that holds `checkpoint/` and `cases/`.
 *
 * @throws CheckpointError when `cases/cases.json` is missing or not of this form
 */
export async function readCases(dir: string): Promise<ParityCase[]> {
  const path = join(dir, 'cases', 'cases.json')
  const text = await readFile(path, 'utf8').catch((cause: unknown) => {
    throw new CheckpointError(`${path}: cannot be read`, { cause })
  })
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new CheckpointError(`${path}: not valid JSON`, { cause })
  }
  const parsed = z.object({ cases: z.array(caseSchema) }).safeParse(value)
  if (!parsed.success) throw new CheckpointError(`${path}: ${z.prettifyError(parsed.error)}`)
  return parsed.data.cases
}

/** Opens one case's tensors. */
export async function openCase(dir: string, name: string): Promise<CaseTensors> {
  const tensors = await openTensorFile(join(dir, 'cases', `${name}.safetensors`))
  return {
    floats: (tensor) => readTensor(tensors.get(tensor)),
    integers: (tensor) => readIntegers(tensors.get(tensor)),
    bytes: (tensor) => readTensorBytes(tensors.get(tensor)),
    shape: (tensor) => tensors.get(tensor).shape,
    has: (tensor) => tensors.has(tensor),
  }
}

/**
 * A number or text that a case must state.
 *
 * @throws naming the case and the field
 */
export function required<Key extends keyof ParityCase>(
  parityCase: ParityCase,
  key: Key,
): NonNullable<ParityCase[Key]> {
  const value = parityCase[key]
  if (value === undefined || value === null) {
    throw new Error(`case ${parityCase.name}: ${String(key)} is missing`)
  }
  return value
}
