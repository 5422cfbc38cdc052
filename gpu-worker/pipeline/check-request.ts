import { EngineError } from '../engine-error.ts'
import { MAX_GUIDANCE, MAX_STEPS, sizeProblem } from '../model/serving.ts'
import type { SizeRules } from '../model/serving.ts'
import { IMAGE_FORMATS } from './encode.ts'
import type { ImageRequest } from './image-request.ts'
import { extractGlyphTexts, toGlyphIds } from './glyph.ts'
import type { Size } from './source-grid.ts'

/** Longest prompt in UTF-16 units; a common limit of image services. */
const MAX_PROMPT_UNITS = 32_000
/** Most ids of quoted text in one prompt: about four times the text that fits one picture legibly. */
const MAX_GLYPH_IDS = 8_192
const MAX_SEED = 2 ** 32 - 1

/** A request of a known size. */
export type SizedRequest = ImageRequest & Size

export interface CheckedRequest extends SizedRequest {
  steps: number
  guidanceScale: number
}

/**
 * Checks a request against what the checkpoint is served with and fills in its defaults.
 *
 * @throws EngineError `invalid_request`; the message names the field and the rule
 */
export function checkRequest(
  request: SizedRequest,
  rules: { size: SizeRules; steps: number; guidanceScale: number },
): CheckedRequest {
  const { prompt, seed, format } = request
  const steps = request.steps ?? rules.steps
  const guidanceScale = request.guidanceScale ?? rules.guidanceScale
  require(typeof prompt === 'string' && prompt.trim() !== '', 'prompt', 'must not be empty')
  require(prompt.length <=
    MAX_PROMPT_UNITS, 'prompt', `must have at most ${MAX_PROMPT_UNITS} characters`)
  const glyphIds = toGlyphIds(extractGlyphTexts(prompt)).reduce((sum, ids) => sum + ids.length, 0)
  require(glyphIds <= MAX_GLYPH_IDS, 'prompt', `must quote at most ${MAX_GLYPH_IDS} bytes of text`)
  const problem = sizeProblem(request, rules.size)
  if (problem) require(false, problem.side, problem.rule)
  require(isIntegerIn(seed, 0, MAX_SEED), 'seed', `must be a whole number from 0 to ${MAX_SEED}`)
  require(isIntegerIn(
    steps,
    1,
    MAX_STEPS,
  ), 'steps', `must be a whole number from 1 to ${MAX_STEPS}`)
  require(guidanceScale >= 0 &&
    guidanceScale <= MAX_GUIDANCE, 'guidance_scale', `must be a number from 0 to ${MAX_GUIDANCE}`)
  require(IMAGE_FORMATS.includes(format), 'format', `must be one of ${IMAGE_FORMATS.join(', ')}`)
  return { ...request, steps, guidanceScale }
}

function isIntegerIn(value: number, least: number, most: number): boolean {
  return Number.isInteger(value) && value >= least && value <= most
}

function require(holds: boolean, field: string, rule: string): void {
  if (!holds) throw new EngineError('invalid_request', `${field} ${rule}`, { field })
}
