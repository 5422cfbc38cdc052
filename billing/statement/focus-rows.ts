import { formatUsd } from '../money.ts'
import { skuName } from './csv.ts'
import type { StatementDocument } from './document.ts'
import type { FocusRow } from './focus-columns.ts'
import { costs, expiryRow, hourOf, invoiceRows, purchaseRow } from './focus-payments.ts'
import type { FocusInvoice, FocusPayment } from './focus-payments.ts'

/** One charged image, or a correction of one (then `images` may be negative or 0). */
export interface FocusLine {
  readonly id: string
  readonly jobId: string
  readonly teamId: string
  readonly keyId: string
  readonly skuId: string
  readonly priceVersionId: string
  readonly images: number
  readonly list: bigint
  readonly net: bigint
  readonly credit: bigint
  /** When the image was charged, also for what corrects it later. */
  readonly usedAt: Date
  /** Null for usage. */
  readonly reason: 'refund' | 'moved_out' | 'moved_in' | null
}

/** What every row of an export has in common. */
export interface FocusContext {
  readonly document: StatementDocument
  readonly invoice: FocusInvoice | null
  /** Who sells, hosts and invoices the service. */
  readonly provider: string
}

const SERVICE = {
  ServiceCategory: 'AI and Machine Learning',
  ServiceSubcategory: 'Generative AI',
  ServiceName: 'Glyphpress Image Generation',
} as const

/** The makers of an export's rows. Which cost each bears is written in billing/LEDGER.md. */
export function createFocusRows(context: FocusContext) {
  const common = commonColumns(context)
  const names = createLineNames(context, common)
  return {
    /** A line, and beside it the promotional credit that pays for it. */
    line: (fact: FocusLine): FocusRow[] =>
      fact.credit === 0n ? [lineRow(names, fact)] : [lineRow(names, fact), creditRow(names, fact)],
    payment: (fact: FocusPayment): FocusRow[] => [
      ...(fact.paid === 0n ? [] : [purchaseRow(common, fact)]),
      ...(fact.expired === 0n ? [] : [expiryRow(common, fact)]),
    ],
    /** What an invoice has that no line has: tax, and the step to whole cents. */
    invoice: (): FocusRow[] => invoiceRows(context, common),
  }
}

function commonColumns({ document, invoice, provider }: FocusContext): FocusRow {
  const { org } = document
  return {
    BillingAccountId: org.id,
    BillingAccountName: org.name,
    BillingAccountType: 'Organisation',
    BillingCurrency: document.currency,
    BillingPeriodStart: document.period_start,
    BillingPeriodEnd: document.period_end,
    InvoiceIssuerName: provider,
    HostProviderName: provider,
    ServiceProviderName: provider,
    ProviderName: provider,
    PublisherName: provider,
    ...(invoice ? { InvoiceId: invoice.id } : {}),
    ...SERVICE,
  }
}

/** What the rows of lines look up: names as they are written into cells. */
function createLineNames({ document, invoice }: FocusContext, common: FocusRow) {
  return {
    common,
    mode: document.org.settlement_mode,
    monthStart: Date.parse(document.period_start),
    teams: new Map(document.teams.map((team) => [team.id, team])),
    keys: new Map(
      document.keys.map(({ tags, ...key }) => [
        key.id,
        { ...key, tags: Object.keys(tags).length === 0 ? null : JSON.stringify(tags) },
      ]),
    ),
    skus: new Map(document.skus.map((sku) => [sku.id, toSkuColumns(sku)])),
    detail: (name: string): FocusRow =>
      invoice ? { InvoiceDetailId: `${invoice.id}:${name}` } : {},
  }
}

type LineNames = ReturnType<typeof createLineNames>

function lineRow(names: LineNames, fact: FocusLine): FocusRow {
  const sku = names.skus.get(fact.skuId)
  const name = sku?.name ?? fact.skuId
  const billed = billedOf(names.mode, fact)
  const row = {
    ...baseRow(names, fact),
    ...costs({ billed, effective: fact.net, list: fact.list, net: fact.net }),
    ...names.detail(fact.skuId),
    x_PriceVersionId: fact.priceVersionId,
  }
  if (!isByImage(fact)) {
    const description = `Change of a price already charged, ${name}`
    return { ...row, ChargeCategory: 'Adjustment', ChargeDescription: description }
  }
  const count = abs(BigInt(fact.images))
  const unit = formatUsd(abs(fact.net) / count)
  return {
    ...row,
    ...sku?.columns,
    ChargeCategory: 'Usage',
    ChargeDescription: `${REASONS[fact.reason ?? 'used']}${count} image, ${name}, at ${unit} USD`,
    PricingQuantity: String(fact.images),
    ConsumedQuantity: String(fact.images),
    ListUnitPrice: formatUsd(abs(fact.list) / count),
    ContractedUnitPrice: unit,
  }
}

function creditRow(names: LineNames, fact: FocusLine): FocusRow {
  const billed = names.mode === 'internal' ? 0n : -fact.credit
  return {
    ...baseRow(names, fact),
    ...costs({ billed, effective: -fact.credit, list: billed, net: billed }),
    ...names.detail('credit'),
    ChargeCategory: 'Credit',
    ChargeDescription: `Promotional credit for ${names.skus.get(fact.skuId)?.name ?? fact.skuId}`,
  }
}

function baseRow(names: LineNames, fact: FocusLine): FocusRow {
  const team = names.teams.get(fact.teamId)
  const key = names.keys.get(fact.keyId)
  // Usage of the month that is still under way is not yet closed, so what corrects it is no Correction.
  const isCorrection = fact.reason !== null && fact.usedAt.getTime() < names.monthStart
  return {
    ...names.common,
    ...hourOf(fact.usedAt),
    ...(isCorrection ? { ChargeClass: 'Correction' } : {}),
    ChargeFrequency: 'Usage-Based',
    SubAccountId: fact.teamId,
    SubAccountName: team?.name ?? fact.teamId,
    SubAccountType: 'Team',
    ...(key?.tags ? { Tags: key.tags } : {}),
    ...(fact.reason ? { x_CorrectionReason: fact.reason } : {}),
    x_ApiKeyId: fact.keyId,
    ...(key ? { x_ApiKeyName: key.name } : {}),
    ...(team ? { x_CostCentre: team.cost_centre } : {}),
    x_JobId: fact.jobId,
    x_RecordId: fact.id,
  }
}

const REASONS = {
  used: '',
  refund: 'Refund of ',
  moved_out: 'Moved to another team: ',
  moved_in: 'Moved from another team: ',
}

/**
 * What an invoice asks for a line. Paid ahead, it is covered by a purchase, all but what promotional credit pays, which
 * a credit row takes back. Inside a company nobody is invoiced: the platform's own bills carry the cash.
 */
function billedOf(mode: string, { net, credit }: FocusLine): bigint {
  if (mode === 'postpaid') return net
  return mode === 'prepaid' ? credit : 0n
}

/** Whether quantity times unit price gives the costs exactly, as the specification asks of a row that has both. */
function isByImage({ images, list, net }: FocusLine): boolean {
  if (images === 0) return false
  const sign = images < 0 ? -1n : 1n
  const count = BigInt(Math.abs(images))
  return [list, net].every((cost) => cost * sign >= 0n && cost % count === 0n)
}

function toSkuColumns(sku: StatementDocument['skus'][number]): { name: string; columns: FocusRow } {
  const details = {
    x_Model: sku.model,
    ...(sku.size_class === 'any' ? {} : { x_SizeClass: sku.size_class }),
    ...(sku.quality === 'any' ? {} : { x_Quality: sku.quality }),
    ...(sku.priority === 'any' ? {} : { x_Priority: sku.priority }),
  }
  return {
    name: skuName(sku),
    columns: {
      SkuId: sku.id,
      // A price has a date and a contract; what is bought has neither, and its id stays the same.
      SkuPriceId: sku.id,
      SkuPriceDetails: JSON.stringify(details),
      SkuMeter: 'Image Generation',
      PricingCategory: 'Standard',
      PricingUnit: 'Images',
      ConsumedUnit: 'Images',
    },
  }
}

function abs(amount: bigint): bigint {
  return amount < 0n ? -amount : amount
}
