import { z } from '@hono/zod-openapi'
import { quotePrice, sizeClassOf } from '../billing/price.ts'
import type { PriceQuote, PriceRequest } from '../billing/price.ts'
import type { Db } from '../db/client.ts'
import { findModel } from '../db/models.ts'
import { MAX_INPUTS } from './input-contract.ts'

/** Which sizes a model is offered in; sides and area in pixels, sizes as WIDTHxHEIGHT. */
export interface SizeRules {
  readonly default: string
  readonly recommended: readonly string[]
  readonly minSide: number
  readonly maxSide: number
  readonly multipleOf: number
  readonly maxPixels: number
}

export interface CatalogueEntry {
  readonly model: string
  readonly size: SizeRules
  readonly steps: number | null
  readonly guidanceScale: number | null
  /** How many pictures a job may work from; 0 where the checkpoint takes none. */
  readonly maxInputs: number
  /** What users of this checkpoint should know; null when there is nothing. */
  readonly notice: string | null
  readonly weightsHash: string | null
}

/** What is for sale now: models, their size rules and prices. */
export interface Catalogue {
  /** Null when the model is unknown. */
  find(db: Db, model: string): Promise<CatalogueEntry | null>
  /** What one image costs an org now; null when it is not for sale. */
  price(db: Db, request: Omit<PriceRequest, 'at'>): Promise<PriceQuote | null>
}

/** The one model of this product. */
export const MODEL = 'glm-image'
/** Orgs times kinds of pictures that are remembered; beyond it the oldest is forgotten. */
const MAX_PRICES = 10_000
/** Prices and size rules change on purpose and seldom; a change is live everywhere after this. */
const TTL_MS = 30_000

/** The vendor's rules, for the time before a worker has announced its checkpoint. */
export const GLM_IMAGE_SIZES: SizeRules = {
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
  minSide: 1024,
  maxSide: 2048,
  multipleOf: 32,
  maxPixels: 4_194_304,
}

const announcedImages = z.object({ max_count: z.number() }).nullable()

const announcedSize = z
  .object({
    default: z.string(),
    recommended: z.array(z.string()),
    min_side: z.number(),
    max_side: z.number(),
    multiple_of: z.number(),
    max_pixels: z.number(),
  })
  .transform((raw) => ({
    default: raw.default,
    recommended: raw.recommended,
    minSide: raw.min_side,
    maxSide: raw.max_side,
    multipleOf: raw.multiple_of,
    maxPixels: raw.max_pixels,
  }))

/** Nothing said is said too: by a worker from before it could. */
function maxInputsOf(announced: unknown): number {
  return Math.min(announcedImages.parse(announced)?.max_count ?? 0, MAX_INPUTS)
}

/** A catalogue that remembers for half a minute; a failed look-up is not remembered. */
export function createCatalogue(now: () => Date): Catalogue {
  let known: { entry: CatalogueEntry; until: number } | null = null
  const prices = new Map<string, { quote: PriceQuote; until: number }>()
  return {
    async find(db, model) {
      if (model !== MODEL) return null
      const at = now()
      if (known && known.until > at.getTime()) return known.entry
      const row = await findModel(db, model)
      const entry: CatalogueEntry = {
        model,
        size: row ? announcedSize.parse(row.size) : GLM_IMAGE_SIZES,
        steps: row?.steps ?? null,
        guidanceScale: row?.guidanceScale ?? null,
        // Before a worker has said what it takes, nothing is refused for it.
        maxInputs: row ? maxInputsOf(row.images) : MAX_INPUTS,
        notice: row?.notice ?? null,
        weightsHash: row?.weightsHash ?? null,
      }
      known = { entry, until: row ? at.getTime() + TTL_MS : 0 }
      return entry
    },
    async price(db, request) {
      const { orgId, model, quality, priority } = request
      const kind = [
        orgId,
        model,
        sizeClassOf(request.width, request.height),
        quality,
        priority,
      ].join(' ')
      const at = now()
      const remembered = prices.get(kind)
      if (remembered && remembered.until > at.getTime()) return remembered.quote
      const quote = await quotePrice(db, { ...request, at })
      if (!quote) return null
      prices.delete(kind)
      prices.set(kind, { quote, until: at.getTime() + TTL_MS })
      const [oldest] = prices.keys()
      if (prices.size > MAX_PRICES && oldest !== undefined) prices.delete(oldest)
      return quote
    },
  }
}

export type SizeVerdict =
  { ok: true; width: number; height: number } | { ok: false; message: string }

/** Reads a size and checks it by the rules; recommended sizes are allowed by name. */
export function checkSize(rules: SizeRules, text: string): SizeVerdict {
  const match = /^([1-9]\d{0,4})x([1-9]\d{0,4})$/.exec(text)
  if (!match) return { ok: false, message: 'size must look like 1280x1280 (width x height).' }
  const width = Number(match[1])
  const height = Number(match[2])
  const { minSide, maxSide, multipleOf, maxPixels } = rules
  const isListed = rules.recommended.includes(text)
  const isAllowed =
    Math.min(width, height) >= minSide &&
    Math.max(width, height) <= maxSide &&
    width % multipleOf === 0 &&
    height % multipleOf === 0 &&
    width * height <= maxPixels
  if (isListed || isAllowed) return { ok: true, width, height }
  return {
    ok: false,
    message:
      `size ${text} is not offered: each side must be ${minSide} to ${maxSide} pixels and a multiple of ` +
      `${multipleOf}, at most ${maxPixels} pixels in all, or one of ${rules.recommended.join(', ')}.`,
  }
}

/**
 * The size in which a picture is drawn anew: its own where that is offered, else the nearest offered in its
 * proportions. Where the rules leave no such size, as for a panorama, the sides go as near as they can.
 */
export function sizeLike(rules: SizeRules, picture: { width: number; height: number }): string {
  const { width, height } = picture
  const own = `${width}x${height}`
  if (checkSize(rules, own).ok) return own
  const { minSide, maxSide, multipleOf, maxPixels } = rules
  const least = Math.ceil(minSide / multipleOf) * multipleOf
  const most = Math.floor(maxSide / multipleOf) * multipleOf
  const grown = Math.max(1, minSide / Math.min(width, height))
  const scale = Math.min(
    grown,
    maxSide / Math.max(width, height),
    Math.sqrt(maxPixels / (width * height)),
  )
  const sides = [width, height].map((side) => {
    const rounded = Math.round((side * scale) / multipleOf) * multipleOf
    return Math.min(most, Math.max(least, rounded))
  })
  // Rounding up may have passed the area by a row or two.
  let [across = least, down = least] = sides
  while (across * down > maxPixels && Math.max(across, down) > least) {
    if (across >= down) across -= multipleOf
    else down -= multipleOf
  }
  return `${across}x${down}`
}
