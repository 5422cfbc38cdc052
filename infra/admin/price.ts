import { UsageError } from '../../billing/command-line.ts'
import { parseAmount } from '../../billing/command-line.ts'
import { addBook, addSku, listBooks, listPrices, listSkus } from '../../billing/price-list.ts'
import type { PriceRow } from '../../billing/price-list.ts'
import { LIST_BOOK, publishPrice } from '../../billing/price.ts'
import type { PriceTier } from '../../billing/price.ts'
import type { Db } from '../../db/client.ts'
import { Refusal, defineCommand } from './command.ts'
import type { Command, Option } from './command.ts'
import { readClock } from './lookup.ts'
import {
  flag,
  instant,
  integer,
  maybe,
  oneOf,
  otherwise,
  required,
  text,
  usdOrZero,
} from './options.ts'
import { showUsd } from './output.ts'
import type { Row } from './output.ts'

const BOOK = otherwise(text('BOOK', `id of a book of prices (${LIST_BOOK})`), LIST_BOOK)
const SIZES = ['any', 'small', 'medium', 'large'] as const
const PRIORITIES = ['any', 'standard', 'batch'] as const
/** A statement from here to the database takes less. */
const LEAD_MS = 1_000

export const SEEN_LATER = 'A gateway that runs may sell at the price of before for 30 seconds more.'

const list = defineCommand({
  name: 'price list',
  help: 'Lists the prices of a book that are in force or to come.',
  args: {},
  options: { book: BOOK, history: flag('those that are over too') },
  async run({ db }, values) {
    const bookId = await theBook(db, values.book)
    return (await listPrices(db, { bookId, isHistoryWanted: values.history })).map(toPriceRow)
  },
})

const publish = defineCommand({
  name: 'price publish',
  help: `Puts a price into force from a date on; the one of before ends there, and accepted jobs keep theirs. Prices are
never edited. With tiers an image has the price of its own place in the organisation's calendar month.`,
  args: {},
  options: {
    sku: text('SKU', 'what is sold; see price skus'),
    usd: maybe(usdOrZero('the price of one image, or of --per images')),
    tiers: maybe(tiers('prices by place in the month, such as "1000:0.015,*:0.012"')),
    per: otherwise(integer('images that the price is for (1)', 1), 1),
    from: maybe(instant('not in the past (now)')),
    book: BOOK,
  },
  async run({ db, note }, values) {
    const price = values.usd ?? values.tiers
    if (price === undefined || (values.usd !== undefined && values.tiers !== undefined)) {
      throw new UsageError('exactly one price must be given: --usd or --tiers')
    }
    const bookId = await theBook(db, values.book)
    const skus = (await listSkus(db)).map(({ id }) => id)
    if (!skus.includes(values.sku)) {
      throw new Refusal(`--sku: there is no "${values.sku}"; there are ${skus.join(', ')}`)
    }
    const validFrom = values.from ?? (await soon(db))
    const perUnits = BigInt(values.per)
    const sold = { bookId, skuId: values.sku, price, perUnits, validFrom }
    const result = await publishPrice(db, sold)
    if (!result.ok)
      throw new Refusal(`${values.tiers ? '--tiers or ' : ''}--from: ${result.message}`)
    const made = (await listPrices(db, { bookId, isHistoryWanted: false })).find(
      ({ id }) => id === result.id,
    )
    if (!made) throw new Error(`price ${result.id} is not there`)
    note(SEEN_LATER)
    return toPriceRow(made)
  },
})

const skus = defineCommand({
  name: 'price skus',
  help: 'Lists what can have a price of its own.',
  args: {},
  options: {},
  run: async ({ db }) =>
    (await listSkus(db)).map(({ id, model, sizeClass, quality, priority }) => {
      return { id, model, size: sizeClass, quality, priority }
    }),
})

const newSku = defineCommand({
  name: 'price add-sku',
  help: `Adds a kind of image that may have a price of its own. The most particular kind that fits and has a price is sold.
small is up to 768x768 pixels in all, medium up to 1.68 million pixels.`,
  args: {},
  options: {
    id: text('ID', 'such as sku_glm_image_large'),
    model: otherwise(text('MODEL', 'the model that draws it (glm-image)'), 'glm-image'),
    size: otherwise(oneOf(SIZES, 'size class (any)'), 'any'),
    quality: otherwise(text('QUALITY', 'any or a quality of the model (any)'), 'any'),
    priority: otherwise(oneOf(PRIORITIES, 'priority (any)'), 'any'),
  },
  async run({ db }, { id, model, size, quality, priority }) {
    if (!(await addSku(db, { id, model, sizeClass: size, quality, priority }))) {
      throw new Refusal(
        '--id: there is one of this id, or for exactly these images; see price skus',
      )
    }
    return { id, model, size, quality, priority }
  },
})

const books = defineCommand({
  name: 'price books',
  help: 'Lists the books of prices.',
  args: {},
  options: {},
  run: async ({ db }) => (await listBooks(db)).map(({ id, name }) => ({ id, name })),
})

const newBook = defineCommand({
  name: 'price add-book',
  help: 'Adds a book of prices, for contracts to refer to.',
  args: {},
  options: { id: text('ID', 'such as acme-2027'), name: text('NAME', 'for people') },
  async run({ db }, { id, name }) {
    if (!(await addBook(db, { id, name })))
      throw new Refusal(`--id: there is a book "${id}" already`)
    return { id, name }
  },
})

/** The book of an id. @throws Refusal when there is none */
export async function theBook(db: Db, bookId: string): Promise<string> {
  const ids = (await listBooks(db)).map(({ id }) => id)
  if (ids.includes(bookId)) return bookId
  throw new Refusal(`--book: there is no "${bookId}"; there are ${ids.join(', ')}`)
}

/** The first instant that is not past when it gets there. */
export async function soon(db: Db): Promise<Date> {
  return new Date((await readClock(db)).getTime() + LEAD_MS)
}

/** Ends of tiers with their prices; the last end is open. */
function tiers(help: string): Option<readonly PriceTier[]> {
  const rule =
    'must be places and prices in US dollars, the last place *, such as 1000:0.015,*:0.012'
  return required('TIERS', help, rule, (typed) => {
    const found = typed.split(',').map((part) => {
      const [, end = '', amount = ''] = /^(\d{1,12}|\*):([\d.]+)$/.exec(part.trim()) ?? []
      const priceMicros = parseAmount(amount)
      if (priceMicros === null) return null
      return { upTo: end === '*' ? null : BigInt(end), priceMicros }
    })
    const read = found.filter((tier) => tier !== null)
    const isLastOpen = read.findIndex(({ upTo }) => upTo === null) === read.length - 1
    return read.length === found.length && isLastOpen ? read : null
  })
}

function toPriceRow(row: PriceRow): Row {
  const steps = row.tiers?.map((tier) => {
    return `${tier.up_to ?? '*'}:${showUsd(BigInt(tier.price_micros))}`
  })
  return {
    id: row.id,
    book: row.bookId,
    sku: row.skuId,
    price: row.priceMicros,
    per: Number(row.perUnits),
    tiers: steps?.join(',') ?? null,
    state: row.state,
    from: row.validFrom,
    to: row.validTo,
  }
}

export const PRICE_COMMANDS: readonly Command[] = [list, publish, skus, newSku, books, newBook]
