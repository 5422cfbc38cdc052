import { findOwnOutput } from '../db/jobs.ts'
import type { KeyPrincipal } from '../db/keys.ts'
import { admitEarly } from './admission.ts'
import { decodeBase64 } from './base64.ts'
import { createJob, isRepeat } from './create-job.ts'
import type { CreatedJob, ImageOrder } from './create-job.ts'
import type { Deps } from './deps.ts'
import { ApiError } from './errors.ts'
import type { JobInput } from './input-contract.ts'
import { takeInputs } from './take-inputs.ts'
import type { Intake } from './take-inputs.ts'

/**
 * Makes a job of an order with pictures in its JSON.
 *
 * @throws ApiError as `createJob`, or naming the picture that cannot be used; the store keeps nothing then
 */
export async function createFromInputs(
  deps: Deps,
  principal: KeyPrincipal,
  { order, images }: { order: ImageOrder; images: readonly JobInput[] },
): Promise<CreatedJob> {
  const isKnown = await isRepeat(deps, principal, order.idempotency)
  if (!isKnown) await admitEarly(deps, principal, { terms: order, refused: order })
  return takeInputs(deps, { isRepeat: isKnown }, async (intake) => {
    for (const [index, input] of images.entries()) {
      const field = `images[${index}]`
      if (input.data !== undefined)
        await intake.add(`${field}.data`, decode(`${field}.data`, input.data))
      else await copy(deps, principal.orgId, { intake, field: `${field}.job`, input })
    }
    return createJob(deps, principal, { ...order, inputs: intake.inputs })
  })
}

function decode(field: string, text: string): Uint8Array {
  const bytes = decodeBase64(text)
  if (bytes !== null) return bytes
  throw new ApiError('invalid_request', {
    message: `${field}: must be base 64 or a data: URL with base 64; addresses are not fetched.`,
    param: field,
  })
}

/** Takes in what an earlier job of this org has drawn. Another org's job is not there. */
async function copy(
  deps: Deps,
  orgId: string,
  { intake, field, input }: { intake: Intake; field: string; input: JobInput },
): Promise<void> {
  const { job: jobId = '', index: idx = 0 } = input
  const output = await findOwnOutput(deps.db, { orgId, jobId, idx })
  const gone = () =>
    new ApiError('invalid_request', {
      message: `${field}: there is no picture ${idx} of a job ${jobId}.`,
      param: field,
    })
  if (output === null) throw gone()
  // The row outlives the picture, so that a repeat is known for one after its deletion.
  if (!intake.inputs.isStored) {
    const { sha256, sizeBytes, width, height } = output
    return intake.recall({ sha256, sizeBytes, width, height, format: 'png' })
  }
  const stored = output.deletedAt === null ? await deps.objects.read(output.objectKey) : null
  if (stored === null) throw gone()
  await intake.add(field, new Uint8Array(await new Response(stored.body).arrayBuffer()))
}
