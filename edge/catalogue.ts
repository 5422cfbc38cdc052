import { z } from '@hono/zod-openapi'
import { findPrice } from '../billing/price.ts'
import type { PriceQuote } from '../billing/price.ts'
import type { Db } from '../db/client.ts'
import { findModel } from '../db/models.ts'

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
  /** What users of this checkpoint should know; null when there is nothing. */
  readonly notice: string | null
  readonly weightsHash: string | null
  readonly price: PriceQuote
}

/** What is for sale now: models, their size rules and prices. */
export interface Catalogue {
  /** Null when the model is unknown or not for sale. */
  find(db: Db, model: string): Promise<CatalogueEntry | null>
}

/** The one model of this product. */
export const MODEL = 'glm-image'
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

/** A catalogue that remembers for half a minute; a failed look-up is not remembered. */
export function createCatalogue(now: () => Date): Catalogue {
  let known: { entry: CatalogueEntry; until: number } | null = null
  return {
    async find(db, model) {
      if (model !== MODEL) return null
      const at = now()
      if (known && known.until > at.getTime()) return known.entry
      const [row, price] = await Promise.all([findModel(db, model), findPrice(db, { model, at })])
      if (!price) return null
      const entry: CatalogueEntry = {
        model,
        size: row ? announcedSize.parse(row.size) : GLM_IMAGE_SIZES,
        steps: row?.steps ?? null,
        guidanceScale: row?.guidanceScale ?? null,
        notice: row?.notice ?? null,
        weightsHash: row?.weightsHash ?? null,
        price,
      }
      known = { entry, until: row ? at.getTime() + TTL_MS : 0 }
      return entry
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
