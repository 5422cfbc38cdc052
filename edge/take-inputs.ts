import { toHex } from '../db/derive.ts'
import { createId } from '../db/ids.ts'
import type { InputImage } from '../db/input-images.ts'
import { MODEL } from './catalogue.ts'
import type { CreatedJob, OrderInputs } from './create-job.ts'
import type { Deps } from './deps.ts'
import { ApiError } from './errors.ts'
import { MAX_INPUTS, MAX_INPUT_BYTES } from './input-contract.ts'
import { readPictureHeader } from './picture-header.ts'

/** One input decoded: 256 MB in the worker, whatever the bytes of a few kilobytes claim. */
const MAX_INPUT_PIXELS = 64_000_000
const MAX_INPUT_SIDE = 16_384
/** The model sees cells of 16 pixels, and nothing narrower than a quarter of its length. */
const MIN_INPUT_SIDE = 16
const MAX_INPUT_RATIO = 4

/** Takes the pictures of one order in. */
export interface Intake {
  /**
   * Checks the next picture and stores it.
   *
   * @param field its place in the request, for the refusal
   * @throws ApiError naming field and rule
   */
  add(field: string, bytes: Uint8Array): Promise<void>
  /** Counts one in that the store need not have, because the order is a repeat. */
  recall(image: InputImage): void
  /** Pictures of the order so far, with the id of the job that they are for. */
  readonly inputs: OrderInputs
}

/**
 * Runs the making of a job that has inputs. Whatever comes of it, the store keeps inputs only for a job that there is
 * now, or may be.
 *
 * @param call.isRepeat nothing is stored: the job has its inputs from the first call
 */
export async function takeInputs(
  deps: Deps,
  call: { isRepeat: boolean },
  work: (intake: Intake) => Promise<CreatedJob>,
): Promise<CreatedJob> {
  const jobId = createId('job')
  let isNeeded = false
  try {
    const entry = await deps.catalogue.find(deps.db, MODEL)
    // A repeat is held to what was offered when its job was made, which is known.
    const limit = call.isRepeat ? MAX_INPUTS : (entry?.maxInputs ?? 0)
    const created = await work(createIntake(deps, { jobId, isStored: !call.isRepeat, limit }))
    isNeeded = created.jobId === jobId
    return created
  } catch (error) {
    // After another error nobody knows whether there is a job; if not, age takes its inputs away.
    isNeeded = !(error instanceof ApiError)
    throw error
  } finally {
    if (!isNeeded && !call.isRepeat) await discard(deps, jobId)
  }
}

function createIntake(
  deps: Deps,
  { jobId, isStored, limit }: { jobId: string; isStored: boolean; limit: number },
): Intake {
  const images: InputImage[] = []
  return {
    inputs: { jobId, images, isStored },
    recall: (image) => void images.push(image),
    async add(field, bytes) {
      const idx = images.length
      if (idx >= limit) {
        const taken = limit === 0 ? 'no pictures are' : `at most ${limit} pictures are`
        throw new ApiError('invalid_request', {
          message: `${field}: ${taken} taken.`,
          param: field,
        })
      }
      const image = await describe(field, bytes)
      if (isStored) await deps.objects.putInput({ jobId, idx, image, bytes })
      images.push(image)
    },
  }
}

/** @throws ApiError when it is not a picture of a kind and size that a worker takes */
async function describe(field: string, bytes: Uint8Array): Promise<InputImage> {
  const refuse = (rule: string) =>
    new ApiError('invalid_request', { message: `${field}: ${rule}.`, param: field })
  if (bytes.length === 0) throw refuse('is empty')
  if (bytes.length > MAX_INPUT_BYTES) {
    throw new ApiError('payload_too_large', {
      message: `${field}: is larger than ${MAX_INPUT_BYTES} bytes.`,
      param: field,
    })
  }
  const header = readPictureHeader(bytes)
  if (header === null) throw refuse('must be a PNG, JPEG or WebP picture')
  const { width, height } = header
  const [shorter, longer] = width < height ? [width, height] : [height, width]
  if (longer > MAX_INPUT_SIDE) throw refuse(`has a side above ${MAX_INPUT_SIDE} pixels`)
  if (width * height > MAX_INPUT_PIXELS) throw refuse(`has more than ${MAX_INPUT_PIXELS} pixels`)
  if (shorter < MIN_INPUT_SIDE) throw refuse(`has a side below ${MIN_INPUT_SIDE} pixels`)
  if (longer > shorter * MAX_INPUT_RATIO) {
    throw refuse(`has one side more than ${MAX_INPUT_RATIO} times as long as the other`)
  }
  // The types allow for memory that threads share, which this is not.
  const digest = await crypto.subtle.digest('SHA-256', bytes as Uint8Array<ArrayBuffer>)
  const sha256 = toHex(new Uint8Array(digest))
  return { sha256, sizeBytes: bytes.length, ...header }
}

/** Goes on after the answer where that must not wait; what cannot be removed now goes by its age. */
async function discard(deps: Deps, jobId: string): Promise<void> {
  const removal = deps.objects.removeInputs(jobId)
  deps.background(removal)
  await removal.catch(() => {})
}
