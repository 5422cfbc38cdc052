/**
 * Checks a CSV against the rules of the FOCUS Cost and Usage dataset, written from the specification and sharing no
 * code with the export. Returns one sentence per broken rule; empty = it conforms.
 */
export function checkFocus(csv: string, version: '1.4' | '1.2'): string[] {
  const { header, rows } = parseCsv(csv)
  const broken: string[] = []
  const provider =
    version === '1.4'
      ? ['HostProviderName', 'ServiceProviderName']
      : ['ProviderName', 'PublisherName']
  const mandatory = [...MANDATORY, ...provider]
  for (const name of mandatory) if (!header.includes(name)) broken.push(`${name} is missing`)
  const known = new Set([...mandatory, ...OPTIONAL[version]])
  for (const name of header)
    if (!known.has(name) && !/^x_[A-Z][A-Za-z0-9]{0,47}$/.test(name))
      broken.push(`${name} is no column of ${version} and bears no x_`)
  if (new Set(header).size !== header.length) broken.push('a column is there twice')
  rows.forEach((row, index) => {
    for (const [rule, holds] of Object.entries(ROW_RULES))
      if (!holds(row)) broken.push(`row ${index + 1}: ${rule}: ${JSON.stringify(row)}`)
    for (const name of [...NEVER_NULL, ...provider])
      if (row[name] === null) broken.push(`row ${index + 1}: ${name} is null`)
  })
  broken.push(...checkParents(rows))
  return broken
}

export type CsvRow = Record<string, string | null>

/** RFC 4180. An empty field without quotes is null; every record has the header's number of fields. */
export function parseCsv(csv: string): { header: string[]; rows: CsvRow[] } {
  const records: (string | null)[][] = []
  let record: (string | null)[] = []
  let position = 0
  while (position < csv.length) {
    let field: string | null = null
    if (csv[position] === '"') {
      field = ''
      for (position++; ; position++) {
        if (position >= csv.length) throw new Error('a quote is not closed')
        if (csv[position] !== '"') field += csv[position]
        else if (csv[position + 1] === '"') field += csv[position++]
        else break
      }
      position++
    } else {
      const end = csv.slice(position).search(/[,\r\n"]/)
      const text = end < 0 ? csv.slice(position) : csv.slice(position, position + end)
      field = text === '' ? null : text
      position += text.length
    }
    record.push(field)
    if (csv[position] === ',') position++
    else if (csv.startsWith('\r\n', position)) {
      records.push(record)
      record = []
      position += 2
    } else throw new Error(`field ends with ${JSON.stringify(csv.slice(position, position + 10))}`)
  }
  const [header = [], ...rest] = records
  const names = header.map((name) => name ?? '')
  return {
    header: names,
    rows: rest.map((cells) => {
      if (cells.length !== names.length) throw new Error(`${cells.length} cells in a record`)
      return Object.fromEntries(names.map((name, index) => [name, cells[index] ?? null]))
    }),
  }
}

/** Sums a column in micros; every amount must be a plain decimal with at most six digits. */
export function sumMicros(rows: CsvRow[], column: string): bigint {
  return rows.reduce((sum, row) => sum + microsOf(row[column]), 0n)
}

const MANDATORY =
  `BilledCost BillingAccountId BillingAccountName BillingCurrency BillingPeriodEnd BillingPeriodStart ChargeCategory
ChargeClass ChargeDescription ChargePeriodEnd ChargePeriodStart ContractedCost EffectiveCost InvoiceIssuerName ListCost
PricingQuantity PricingUnit ServiceCategory ServiceName`.split(/\s+/)
const SINCE_1_2 =
  `AvailabilityZone BillingAccountType CapacityReservationId CapacityReservationStatus ChargeFrequency
CommitmentDiscountCategory CommitmentDiscountId CommitmentDiscountName CommitmentDiscountQuantity CommitmentDiscountStatus
CommitmentDiscountType CommitmentDiscountUnit ConsumedQuantity ConsumedUnit ContractedUnitPrice InvoiceId ListUnitPrice
PricingCategory PricingCurrency PricingCurrencyContractedUnitPrice PricingCurrencyEffectiveCost PricingCurrencyListUnitPrice
RegionId RegionName ResourceId ResourceName ResourceType ServiceSubcategory SkuId SkuMeter SkuPriceDetails SkuPriceId
SubAccountId SubAccountName SubAccountType Tags`.split(/\s+/)
const OPTIONAL = {
  '1.2': SINCE_1_2,
  '1.4': [...SINCE_1_2, 'InvoiceDetailId', 'ContractApplied'],
}

const NEVER_NULL =
  `BilledCost BillingAccountId BillingAccountName BillingAccountType BillingCurrency BillingPeriodEnd BillingPeriodStart
ChargeCategory ChargeDescription ChargeFrequency ChargePeriodEnd ChargePeriodStart ContractedCost EffectiveCost
InvoiceIssuerName ListCost ServiceCategory ServiceName ServiceSubcategory`.split(/\s+/)
const DECIMALS =
  `BilledCost ContractedCost EffectiveCost ListCost PricingQuantity ConsumedQuantity ListUnitPrice
ContractedUnitPrice`.split(/\s+/)
const DATES = 'BillingPeriodStart BillingPeriodEnd ChargePeriodStart ChargePeriodEnd'.split(' ')
const COSTS = 'BilledCost EffectiveCost ListCost ContractedCost'.split(' ')

const is = (row: CsvRow, column: string, ...values: string[]) => values.includes(row[column] ?? '')
const isNull = (row: CsvRow, column: string) => (row[column] ?? null) === null
/** Usage or purchase that corrects nothing: where prices must stand. */
const isPriced = (row: CsvRow) =>
  is(row, 'ChargeCategory', 'Usage', 'Purchase') && !is(row, 'ChargeClass', 'Correction')
const nullTogether = (row: CsvRow, a: string, b: string) => isNull(row, a) === isNull(row, b)

const ROW_RULES: Record<string, (row: CsvRow) => boolean> = {
  'decimals have no exponent, sign +, comma or unit': (row) =>
    DECIMALS.every((name) => isNull(row, name) || /^-?\d+(\.\d+)?$/.test(row[name] ?? '')),
  'instants are YYYY-MM-DDTHH:mm:ssZ and exist': (row) =>
    DATES.every(
      (name) =>
        /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(row[name] ?? '') &&
        new Date(row[name] ?? '').toISOString().slice(0, 19) === row[name]?.slice(0, 19),
    ),
  'no cell is an empty string or a placeholder': (row) =>
    Object.values(row).every((cell) => cell === null || !/^(\s*|null|n\/a|none)$/i.test(cell)),
  'currency is a code of ISO 4217': (row) => /^[A-Z]{3}$/.test(row.BillingCurrency ?? ''),
  'ChargeCategory is allowed': (row) =>
    is(row, 'ChargeCategory', 'Usage', 'Purchase', 'Tax', 'Credit', 'Adjustment'),
  'ChargeClass is null or Correction': (row) =>
    isNull(row, 'ChargeClass') || is(row, 'ChargeClass', 'Correction'),
  'ChargeFrequency is allowed, and of a purchase not Usage-Based': (row) =>
    is(row, 'ChargeFrequency', 'One-Time', 'Recurring', 'Usage-Based') &&
    !(is(row, 'ChargeCategory', 'Purchase') && is(row, 'ChargeFrequency', 'Usage-Based')),
  'ServiceCategory and its subcategory are allowed': (row) =>
    is(row, 'ServiceCategory', 'AI and Machine Learning') &&
    is(row, 'ServiceSubcategory', 'Generative AI'),
  'PricingCategory is allowed': (row) =>
    isNull(row, 'PricingCategory') ||
    is(row, 'PricingCategory', 'Standard', 'Dynamic', 'Committed', 'Other'),
  'a period starts before it ends': (row) =>
    (row.ChargePeriodStart ?? '') < (row.ChargePeriodEnd ?? '') &&
    (row.BillingPeriodStart ?? '') < (row.BillingPeriodEnd ?? ''),
  'the charge lies in the billing period; a Correction lies before it': (row) =>
    is(row, 'ChargeClass', 'Correction')
      ? (row.ChargePeriodEnd ?? '') <= (row.BillingPeriodStart ?? '')
      : (row.ChargePeriodStart ?? '') >= (row.BillingPeriodStart ?? '') &&
        (row.ChargePeriodEnd ?? '') <= (row.BillingPeriodEnd ?? ''),
  'SKU, quantity, unit prices and category stand on priced rows': (row) =>
    !isPriced(row) ||
    [
      'SkuId',
      'SkuPriceId',
      'PricingQuantity',
      'PricingUnit',
      'ListUnitPrice',
      'ContractedUnitPrice',
      'PricingCategory',
    ].every((name) => !isNull(row, name)),
  'without a SKU price there are no quantities, unit prices or details': (row) =>
    !isNull(row, 'SkuPriceId') ||
    [
      'PricingQuantity',
      'ConsumedQuantity',
      'ListUnitPrice',
      'ContractedUnitPrice',
      'PricingCategory',
      'SkuPriceDetails',
    ].every((name) => isNull(row, name)),
  'with a SKU price there are unit prices': (row) =>
    isNull(row, 'SkuPriceId') ||
    (!isNull(row, 'ListUnitPrice') && !isNull(row, 'ContractedUnitPrice')),
  'tax has no SKU and no price': (row) =>
    !is(row, 'ChargeCategory', 'Tax') ||
    ['SkuId', 'SkuPriceId', 'PricingQuantity', 'ListUnitPrice', 'ContractedUnitPrice'].every(
      (name) => isNull(row, name),
    ),
  'unit goes with quantity': (row) =>
    nullTogether(row, 'PricingQuantity', 'PricingUnit') &&
    nullTogether(row, 'ConsumedQuantity', 'ConsumedUnit'),
  'consumption is stated for usage and nothing else': (row) =>
    is(row, 'ChargeCategory', 'Usage')
      ? is(row, 'ChargeClass', 'Correction') || !isNull(row, 'ConsumedQuantity')
      : isNull(row, 'ConsumedQuantity'),
  'SkuMeter only beside a SkuId': (row) => !isNull(row, 'SkuId') || isNull(row, 'SkuMeter'),
  'units are capitalised nouns': (row) =>
    ['PricingUnit', 'ConsumedUnit'].every(
      (name) => isNull(row, name) || /^[A-Z][a-z]+s$/.test(row[name] ?? ''),
    ),
  'unit prices are not negative': (row) =>
    ['ListUnitPrice', 'ContractedUnitPrice'].every((name) => !row[name]?.startsWith('-')),
  'cost = unit price times quantity': (row) =>
    isProduct(row, 'ListCost', 'ListUnitPrice') &&
    isProduct(row, 'ContractedCost', 'ContractedUnitPrice'),
  'a purchase that covers usage has no effective cost of its own': (row) =>
    !is(row, 'ChargeCategory', 'Purchase') || microsOf(row.EffectiveCost) === 0n,
  'a credit costs the same by every measure but the effective one': (row) =>
    !is(row, 'ChargeCategory', 'Credit') ||
    (row.ListCost === row.BilledCost && row.ContractedCost === row.BilledCost),
  'sub account: id, name and type together': (row) =>
    nullTogether(row, 'SubAccountId', 'SubAccountType') &&
    nullTogether(row, 'SubAccountId', 'SubAccountName'),
  'tags and details are flat JSON objects': (row) =>
    ['Tags', 'SkuPriceDetails'].every((name) => isNull(row, name) || isFlatObject(row[name])),
  'details of ours bear an x_': (row) =>
    Object.keys(JSON.parse(row.SkuPriceDetails ?? '{}') as object).every((name) =>
      name.startsWith('x_'),
    ),
  'the invoice detail goes with the invoice': (row) =>
    !('InvoiceDetailId' in row) || nullTogether(row, 'InvoiceId', 'InvoiceDetailId'),
  'amounts have a cost in every measure': (row) => COSTS.every((name) => !isNull(row, name)),
}

/** Rules between rows. */
function checkParents(rows: CsvRow[]): string[] {
  const broken: string[] = []
  const parents = new Map<string, string | null>()
  const details = new Map<string, string | null>()
  for (const row of rows) {
    const price = row.SkuPriceId ?? null
    if (price === null) continue
    const sku = row.SkuId ?? null
    if (parents.has(price) && parents.get(price) !== sku) broken.push(`${price} has two SKUs`)
    parents.set(price, sku)
    const said = row.SkuPriceDetails ?? null
    if (details.has(price) && details.get(price) !== said) broken.push(`${price} has two details`)
    details.set(price, said)
  }
  for (const column of ['BillingAccountId', 'BillingCurrency', 'BillingPeriodStart'])
    if (new Set(rows.map((row) => row[column])).size > 1) broken.push(`${column} is not one`)
  return broken
}

function isProduct(row: CsvRow, cost: string, unit: string): boolean {
  if (isNull(row, unit) || isNull(row, 'PricingQuantity')) return true
  const million = 1_000_000n
  return microsOf(row[cost]) * million === microsOf(row[unit]) * microsOf(row.PricingQuantity)
}

function isFlatObject(text: string | null | undefined): boolean {
  const value: unknown = JSON.parse(text ?? '')
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every((item) => item === null || typeof item !== 'object')
  )
}

function microsOf(text: string | null | undefined): bigint {
  const match = /^(-?)(\d+)(?:\.(\d{1,6}))?$/.exec(text ?? '')
  if (!match) throw new Error(`not an amount: ${text}`)
  const [, sign, whole = '0', fraction = ''] = match
  const amount = BigInt(whole) * 1_000_000n + BigInt(fraction.padEnd(6, '0'))
  return sign === '-' ? -amount : amount
}
