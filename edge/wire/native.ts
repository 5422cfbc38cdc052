import { formatUsd } from '../../billing/money.ts'
import { inputsOf } from '../../db/input-images.ts'
import { isTerminal } from '../../db/job-state.ts'
import type { JobWithOutputs } from '../../db/jobs.ts'
import type { WireJob } from '../contract.ts'
import { toProof } from '../text-contract.ts'
import { signOutputUrl } from '../signed-url.ts'

/** Result URLs of an answer live this long; a later answer carries new ones. */
export const RESULT_URL_SECONDS = 30 * 86_400

export interface UrlDeps {
  pepper: string
  publicUrl: string
  now: () => Date
}

/** One delivered picture with a fresh signed URL. */
export interface SignedOutput {
  index: number
  url: string
  expiresAt: Date
  sha256: string
  proof: ReturnType<typeof toProof>
}

/** Fresh URLs of what may be fetched: stored images of a succeeded job that are not deleted. */
export async function signOutputs(
  deps: UrlDeps,
  { job, outputs }: JobWithOutputs,
  seconds = RESULT_URL_SECONDS,
): Promise<SignedOutput[]> {
  if (job.state !== 'succeeded') return []
  // Whole seconds, as the URL carries them.
  const expiresAt = new Date((Math.floor(deps.now().getTime() / 1000) + seconds) * 1000)
  return Promise.all(
    outputs
      .filter((output) => output.deletedAt === null)
      .map(async (output) => ({
        index: output.idx,
        sha256: output.sha256,
        proof: toProof(output),
        expiresAt,
        url: await signOutputUrl(deps, {
          jobId: job.id,
          idx: output.idx,
          format: job.format,
          expiresAt,
        }),
      })),
  )
}

/** A job as the native API shows it. */
export async function toWireJob(deps: UrlDeps, found: JobWithOutputs): Promise<WireJob> {
  const { job, outputs } = found
  const signed = new Map((await signOutputs(deps, found)).map((output) => [output.index, output]))
  return {
    id: job.id,
    object: 'job',
    state: job.state,
    model: job.model,
    prompt: job.prompt,
    size: `${job.width}x${job.height}`,
    n: job.n,
    seed: job.seed,
    output_format: job.format,
    text_guarantee: job.textTerms && {
      ...job.textTerms,
      expected: [...job.textTerms.expected],
    },
    inputs: inputsOf(job).map(({ sizeBytes, format, ...image }, index) => ({
      index,
      ...image,
      size_bytes: sizeBytes,
      content_type: `image/${format}`,
    })),
    outputs: outputs.flatMap((output) => {
      const link = signed.get(output.idx)
      if (!link) return []
      return {
        index: output.idx,
        url: link.url,
        expires_at: link.expiresAt.toISOString(),
        sha256: output.sha256,
        size_bytes: output.sizeBytes,
        content_type: output.contentType,
        width: output.width,
        height: output.height,
        seed: output.seed,
        ...link.proof,
      }
    }),
    billing: toWireBilling(found),
    progress: toRecord(job.progress),
    attempt: job.attempt,
    error:
      job.errorCode === null || !isTerminal(job.state)
        ? null
        : { code: job.errorCode, message: job.errorMessage ?? '' },
    metadata: toTexts(toRecord(job.callerFields)?.metadata),
    request_id: requestIdOfJob(found),
    created_at: job.createdAt.toISOString(),
    started_at: job.startedAt?.toISOString() ?? null,
    finished_at: job.finishedAt?.toISOString() ?? null,
    deadline_at: job.deadlineAt.toISOString(),
    deleted_at: job.deletedAt?.toISOString() ?? null,
  }
}

/** Whether and why the caller pays, in the words of every dialect. */
export function toWireBilling({ job, reservation }: JobWithOutputs): WireJob['billing'] {
  const hasEnded = isTerminal(job.state)
  return {
    billed: hasEnded ? reservation.capturedMicros > 0n : null,
    reason: job.billedReason,
    currency: 'USD',
    unit_price: formatUsd(reservation.unitMicros),
    held: formatUsd(reservation.state === 'held' ? reservation.amountMicros : 0n),
    charged: formatUsd(reservation.capturedMicros),
  }
}

/** The caller's own id of the request, where its dialect has one. */
export function requestIdOfJob({ job }: JobWithOutputs): string | null {
  const value = toRecord(job.callerFields)?.request_id
  return typeof value === 'string' ? value : null
}

function toRecord(value: unknown): Record<string, unknown> | null {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
    ? Object.fromEntries(Object.entries(value))
    : null
}

function toTexts(value: unknown): Record<string, string> {
  const texts: Record<string, string> = {}
  for (const [name, text] of Object.entries(toRecord(value) ?? {})) {
    if (typeof text === 'string') texts[name] = text
  }
  return texts
}
