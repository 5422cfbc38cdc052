import { z } from 'zod'

/** Twice the published setting; more only costs time. */
export const MAX_STEPS = 100
/** Published demonstrations stay below 5; far above, pictures burn out. */
export const MAX_GUIDANCE = 20

/**
 * Twice the largest picture. The denoiser keeps keys and values of every pixel of a condition image: 15 GiB for so many
 * in half precision at the published dimensions, which still fits beside the weights.
 */
const MAX_CONDITION_PIXELS = 8_388_608

const count = z.int().positive()
const sizeText = z.string().regex(/^[1-9]\d{0,4}x[1-9]\d{0,4}$/, 'must look like 1280x1280')

/** The published limits of the model: the two wide sizes are allowed by name although a side is below the least. */
const GLM_IMAGE_SIZES = {
  default: '1280x1280',
  recommended: [
    '1280x1280',
    '1568x1056',
    '1056x1568',
    '1472x1088',
    '1088x1472',
    '1728x960',
    '960x1728',
  ],
  min_side: 1024,
  max_side: 2048,
  multiple_of: 32,
  max_pixels: 4_194_304,
}

/** `serving.json`, our own optional file beside the folders: what the server offers of this checkpoint. */
export const servingSchema = z
  .object({
    model: z.string().min(1).default('glm-image'),
    notice: z.string().nullable().default(null),
    size: z
      .object({
        default: sizeText,
        recommended: z.array(sizeText).min(1),
        min_side: count,
        max_side: count,
        multiple_of: count,
        max_pixels: count,
      })
      .prefault(GLM_IMAGE_SIZES),
    steps: count.max(MAX_STEPS).default(50),
    guidance_scale: z.number().nonnegative().max(MAX_GUIDANCE).default(1.5),
    images: z
      .object({ max_count: count.default(8), max_pixels: count.default(MAX_CONDITION_PIXELS) })
      .prefault({}),
    /** For whoever reads the file: under what terms the weights may be used, and what they were trained on. */
    licence: z.string().optional(),
    training: z.record(z.string(), z.union([z.string(), z.number()])).optional(),
  })
  .transform(({ size, images, ...raw }) => ({
    model: raw.model,
    notice: raw.notice,
    size: {
      default: size.default,
      recommended: size.recommended,
      minSide: size.min_side,
      maxSide: size.max_side,
      multipleOf: size.multiple_of,
      maxPixels: size.max_pixels,
    },
    steps: raw.steps,
    guidanceScale: raw.guidance_scale,
    images: { maxCount: images.max_count, maxPixels: images.max_pixels },
  }))
export type ServingConfig = z.output<typeof servingSchema>

/** Which sizes a checkpoint is offered in; sides and area in pixels, sizes as WIDTHxHEIGHT. */
export type SizeRules = ServingConfig['size']

/** How many condition images an edit may have, and how many pixels together at the size in which they are read. */
export type ImageRules = ServingConfig['images']

/**
 * Why a picture of this size is not offered: the side at fault and the rule it breaks; null when it is.
 * Recommended sizes are offered by name, also where a side is below the least.
 */
export function sizeProblem(
  { width, height }: { width: number; height: number },
  rules: SizeRules,
): { side: 'width' | 'height'; rule: string } | null {
  if (rules.recommended.includes(`${width}x${height}`)) return null
  const { minSide, maxSide, multipleOf, maxPixels } = rules
  for (const [side, pixels] of [
    ['width', width],
    ['height', height],
  ] as const) {
    const fits = Number.isInteger(pixels) && pixels >= minSide && pixels <= maxSide
    if (fits && pixels % multipleOf === 0) continue
    return { side, rule: `must be a multiple of ${multipleOf} from ${minSide} to ${maxSide}` }
  }
  if (width * height <= maxPixels) return null
  return { side: 'width', rule: `times height must be at most ${maxPixels} pixels` }
}

/**
 * The size on offer that is nearest to the proportions and the area of another: scaled as a whole first, and only where
 * the proportions themselves are not on offer side by side.
 */
export function nearestSize(
  size: { width: number; height: number },
  rules: SizeRules,
): { width: number; height: number } {
  if (sizeProblem(size, rules) === null) return size
  const { width, height } = size
  const { minSide, maxSide, multipleOf, maxPixels } = rules
  const most = Math.min(maxSide / Math.max(width, height), Math.sqrt(maxPixels / (width * height)))
  const scale = Math.min(Math.max(1, minSide / Math.min(width, height)), most)
  const least = Math.ceil(minSide / multipleOf) * multipleOf
  const largest = Math.floor(maxSide / multipleOf) * multipleOf
  const onGrid = (side: number) => {
    const rounded = Math.round((side * scale) / multipleOf) * multipleOf
    return Math.min(Math.max(rounded, least), largest)
  }
  const fitted = { width: onGrid(width), height: onGrid(height) }
  while (fitted.width * fitted.height > maxPixels) {
    const longer = fitted.width > fitted.height ? 'width' : 'height'
    if (fitted[longer] - multipleOf < least) break
    fitted[longer] -= multipleOf
  }
  return fitted
}

/** Pixels of a size such as 1280x1280; NaN where the text is none. */
export function readSize(text: string): { width: number; height: number } {
  const [width = NaN, height = NaN] = text.split('x').map(Number)
  return { width, height }
}
