import { formatUsd } from '../money.ts'
import type { StatementDocument } from './document.ts'
import type { FocusRow } from './focus-columns.ts'
import { toInstant } from './month.ts'

/** A posted ledger transaction of a prepaid org that is not a charge. */
export interface FocusPayment {
  readonly id: string
  /** Paid ahead; negative when it was paid back. */
  readonly paid: bigint
  /** Paid credit that expired unused. */
  readonly expired: bigint
  readonly at: Date
}

/** The invoice that a month's charges stand on, with what it says beside them. */
export interface FocusInvoice {
  readonly id: string
  readonly taxMicros: bigint
  /** Whole cents less our exact sum. */
  readonly roundingMicros: bigint
}

/** Prepaid credit is bought by the dollar. */
const CREDIT_SKU = 'prepaid_credit'
const HOUR_MS = 3_600_000

/** The cash of prepaid credit: all of it here, none of it in the usage that it covers. */
export function purchaseRow(common: FocusRow, { id, paid, at }: FocusPayment): FocusRow {
  return {
    ...common,
    ...hourOf(at),
    ...costs({ billed: paid, effective: 0n, list: paid, net: paid }),
    ChargeCategory: 'Purchase',
    ChargeFrequency: 'One-Time',
    ChargeDescription: paid < 0n ? 'Prepaid credit, paid back' : 'Prepaid credit',
    PricingCategory: 'Standard',
    PricingQuantity: formatUsd(paid),
    PricingUnit: 'Credits',
    ListUnitPrice: formatUsd(1_000_000n),
    ContractedUnitPrice: formatUsd(1_000_000n),
    SkuId: CREDIT_SKU,
    SkuPriceId: CREDIT_SKU,
    SkuMeter: 'Prepaid Credit',
    x_RecordId: id,
  }
}

/** Paid for and never used: the cost of a purchase that no usage will bear any more. */
export function expiryRow(common: FocusRow, { id, expired, at }: FocusPayment): FocusRow {
  return {
    ...common,
    ...hourOf(at),
    ...costs({ billed: 0n, effective: expired, list: 0n, net: 0n }),
    ChargeCategory: 'Adjustment',
    ChargeFrequency: 'One-Time',
    ChargeDescription: 'Prepaid credit that expired unused',
    x_RecordId: id,
  }
}

/** What an invoice has that no line has. */
export function invoiceRows(
  { document, invoice }: { document: StatementDocument; invoice: FocusInvoice | null },
  common: FocusRow,
): FocusRow[] {
  if (!invoice) return []
  const { id, taxMicros, roundingMicros } = invoice
  const row = (name: string, amount: bigint, columns: FocusRow): FocusRow[] =>
    amount === 0n
      ? []
      : [
          {
            ...common,
            ChargePeriodStart: document.period_start,
            ChargePeriodEnd: document.period_end,
            ...costs({ billed: amount, effective: amount, list: amount, net: amount }),
            ChargeFrequency: 'One-Time',
            InvoiceDetailId: `${id}:${name}`,
            x_RecordId: `${id}:${name}`,
            ...columns,
          },
        ]
  return [
    ...row('tax', taxMicros, { ChargeCategory: 'Tax', ChargeDescription: 'Tax on the invoice' }),
    ...row('rounding', roundingMicros, {
      ChargeCategory: 'Adjustment',
      ChargeDescription: 'Rounding of the invoice to whole cents',
    }),
  ]
}

/** The four costs of a row. */
export function costs(of: {
  billed: bigint
  effective: bigint
  list: bigint
  net: bigint
}): FocusRow {
  return {
    BilledCost: formatUsd(of.billed),
    EffectiveCost: formatUsd(of.effective),
    ListCost: formatUsd(of.list),
    ContractedCost: formatUsd(of.net),
  }
}

/** The hour that a charge lies in: charges are dated by the hour. */
export function hourOf(instant: Date): FocusRow {
  const start = Math.floor(instant.getTime() / HOUR_MS) * HOUR_MS
  return {
    ChargePeriodStart: toInstant(new Date(start)),
    ChargePeriodEnd: toInstant(new Date(start + HOUR_MS)),
  }
}
