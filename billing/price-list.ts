import type { Db } from '../db/client.ts'

/** What is for sale: one image of this kind. `any` stands for whatever has no SKU of its own. */
export interface Sku {
  readonly id: string
  readonly model: string
  readonly sizeClass: 'any' | 'small' | 'medium' | 'large'
  readonly quality: string
  readonly priority: 'any' | 'standard' | 'batch'
}

export async function listSkus(db: Db): Promise<Sku[]> {
  return await db.sql<Sku[]>`
    select id, model, size_class as "sizeClass", quality, priority from sku order by id`
}

/**
 * Adds a kind of image that may have a price of its own; without one it changes nothing.
 *
 * @returns false when there is one of this id or for exactly these images
 */
export async function addSku(db: Db, sku: Sku): Promise<boolean> {
  const rows = await db.sql`
    insert into sku (id, model, size_class, quality, priority, unit)
    values (${sku.id}, ${sku.model}, ${sku.sizeClass}, ${sku.quality}, ${sku.priority}, 'image')
    on conflict do nothing returning id`
  return rows.length > 0
}

/** A list of prices that contracts may refer to. */
export interface PriceBook {
  readonly id: string
  readonly name: string
}

export async function listBooks(db: Db): Promise<PriceBook[]> {
  return await db.sql<PriceBook[]>`select id, name from price_book order by id`
}

/** @returns false when there is one of this id */
export async function addBook(db: Db, book: PriceBook): Promise<boolean> {
  const rows = await db.sql`
    insert into price_book (id, name, currency) values (${book.id}, ${book.name}, 'USD')
    on conflict do nothing returning id`
  return rows.length > 0
}

/** A dated price; amounts in micro-USD per `perUnits` images. */
export interface PriceRow {
  readonly id: string
  readonly bookId: string
  readonly skuId: string
  readonly priceMicros: bigint
  readonly perUnits: bigint
  readonly tiers: readonly { readonly up_to: number | null; readonly price_micros: number }[] | null
  readonly validFrom: Date
  readonly validTo: Date | null
  readonly state: 'over' | 'in force' | 'to come'
}

/** The prices of a book by SKU and date: of all times, or of now and later. */
export async function listPrices(
  db: Db,
  filter: { bookId: string; isHistoryWanted: boolean },
): Promise<PriceRow[]> {
  return await db.sql<PriceRow[]>`
    select id, book_id as "bookId", sku_id as "skuId", price_micros as "priceMicros", per_units as "perUnits", tiers,
           valid_from as "validFrom", valid_to as "validTo",
           case when valid_to <= now() then 'over' when valid_from > now() then 'to come'
                else 'in force' end as state
      from price_version
     where book_id = ${filter.bookId} and (${filter.isHistoryWanted} or valid_to is null or valid_to > now())
     order by sku_id, valid_from`
}

/** What an org has agreed, dated. */
export interface ContractRow {
  readonly id: string
  readonly bookId: string
  readonly discountBp: number
  readonly validFrom: Date
  readonly validTo: Date | null
  readonly state: PriceRow['state']
}

/** All contracts that an org ever had, oldest first. */
export async function listContracts(db: Db, orgId: string): Promise<ContractRow[]> {
  return await db.sql<ContractRow[]>`
    select id, book_id as "bookId", discount_bp as "discountBp", valid_from as "validFrom", valid_to as "validTo",
           case when valid_to <= now() then 'over' when valid_from > now() then 'to come'
                else 'in force' end as state
      from org_price where org_id = ${orgId} order by valid_from, id`
}
