import { isId } from './ids.ts'
import { JOB_DEADLINE_SECONDS } from './job-state.ts'

/** A picture that a job works from. */
export interface InputImage {
  /** Hex, of the bytes. */
  readonly sha256: string
  readonly format: 'png' | 'jpeg' | 'webp'
  readonly sizeBytes: number
  /** Pixels, as the picture is seen: a photo that was taken with the camera turned is measured upright. */
  readonly width: number
  readonly height: number
}

/** The same as it lies in the job's row. */
export interface StoredInput {
  sha256: string
  format: InputImage['format']
  size_bytes: number
  width: number
  height: number
}

/**
 * The longest that the store keeps an input: no job lives longer than the day of a batch job, so that whatever
 * is older belongs to none that could still use it.
 */
export const INPUT_LIFE_SECONDS = 2 * JOB_DEADLINE_SECONDS.batch

const KEY_FORM = /^inputs\/(job_[0-9a-z]+)\/[0-9]{1,2}-[0-9a-f]{64}\.(png|jpeg|webp)$/

/** Where an input lies in the store: `inputs/<job id>/<index>-<sha256>.<format>`. */
export function inputKeyOf(jobId: string, idx: number, image: InputImage): string {
  return `${inputFolderOf(jobId)}${idx}-${image.sha256}.${image.format}`
}

/** Under what all inputs of a job lie, with a slash at the end. @throws an Error (bug) for no job's id */
export function inputFolderOf(jobId: string): string {
  if (!isId('job', jobId)) throw new Error('job id has an unknown form')
  return `inputs/${jobId}/`
}

/** Whether a key has the one form that inputs have. */
export function isInputKey(key: string): boolean {
  return isId('job', KEY_FORM.exec(key)?.[1] ?? '')
}

export function toStoredInput(image: InputImage): StoredInput {
  const { sha256, format, sizeBytes, width, height } = image
  return { sha256, format, size_bytes: sizeBytes, width, height }
}

/** The inputs of a job, by index; empty for a job from text alone. */
export function inputsOf(job: { inputImages: readonly StoredInput[] | null }): InputImage[] {
  return (job.inputImages ?? []).map(({ size_bytes: sizeBytes, ...image }) => ({
    ...image,
    sizeBytes,
  }))
}
