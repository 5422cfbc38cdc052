/** What a caller wants done about the texts in its pictures; stored with the job as it is shown. */
export interface TextTerms {
  readonly guarantee: TextGuarantee
  /** The share of words that has to be read for a picture to pass. */
  readonly threshold: number
  /** How many times a picture that does not pass is drawn again. */
  readonly retries: number
  /** What each picture has to show; empty where nothing is to be compared, and once the caller has deleted the job. */
  readonly expected: readonly string[]
}

export const TEXT_GUARANTEES = ['off', 'report', 'retry', 'refund'] as const
export type TextGuarantee = Exclude<(typeof TEXT_GUARANTEES)[number], 'off'>

/** What was found in one picture; stored with it as it is shown. */
export interface TextCheck {
  /** `failed`: the picture could not be read, `error` says why. */
  readonly status: 'checked' | 'failed' | 'nothing_expected'
  readonly error: string | null
  /** Null unless it was checked. */
  readonly passed: boolean | null
  readonly word_accuracy: number | null
  readonly ned: number | null
  readonly texts: readonly TextMatch[]
  /** The lines that were read, from top to bottom. */
  readonly read: readonly string[]
  /** How many times the picture was drawn; the best one is kept. */
  readonly draws: number
  readonly engine: string
  readonly engine_version: string
  readonly duration_ms: number
}

export interface TextMatch {
  readonly expected: string
  readonly matched: boolean
  /** Its words that were not read. */
  readonly missing: readonly string[]
}

/** Why a delivered picture costs nothing. */
export const UNBILLED_REASONS = ['text_mismatch', 'text_unchecked'] as const
export type UnbilledReason = (typeof UNBILLED_REASONS)[number]

/**
 * What a picture's check means for its price. Under `refund` a picture is charged when its texts were read in it: one
 * that missed them is not, nor is one that could not be read, as it proves nothing. All else is charged.
 */
export function unbilledReasonOf(
  terms: Pick<TextTerms, 'guarantee'>,
  check: Pick<TextCheck, 'status' | 'passed'>,
): UnbilledReason | null {
  if (terms.guarantee !== 'refund' || check.passed === true) return null
  return check.status === 'checked' ? 'text_mismatch' : 'text_unchecked'
}
