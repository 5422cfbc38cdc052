/**
 * The columns of the FOCUS Cost and Usage dataset that we fill. First the 21 that every dataset has, then those that
 * apply to a service with unit prices, teams and invoices, then our own.
 *
 * @source FOCUS Specification 1.4, Cost and Usage (June 2026); 1.2 (May 2025)
 */
const COMMON_MANDATORY = [
  'BilledCost',
  'BillingAccountId',
  'BillingAccountName',
  'BillingCurrency',
  'BillingPeriodEnd',
  'BillingPeriodStart',
  'ChargeCategory',
  'ChargeClass',
  'ChargeDescription',
  'ChargePeriodEnd',
  'ChargePeriodStart',
  'ContractedCost',
  'EffectiveCost',
  'InvoiceIssuerName',
  'ListCost',
  'PricingQuantity',
  'PricingUnit',
  'ServiceCategory',
  'ServiceName',
] as const

const COMMON_CONDITIONAL = [
  'BillingAccountType',
  'ChargeFrequency',
  'ConsumedQuantity',
  'ConsumedUnit',
  'ContractedUnitPrice',
  'InvoiceId',
  'ListUnitPrice',
  'PricingCategory',
  'ServiceSubcategory',
  'SkuId',
  'SkuMeter',
  'SkuPriceDetails',
  'SkuPriceId',
  'SubAccountId',
  'SubAccountName',
  'SubAccountType',
  'Tags',
] as const

const CUSTOM = [
  'x_ApiKeyId',
  'x_ApiKeyName',
  'x_CorrectionReason',
  'x_CostCentre',
  'x_JobId',
  'x_PriceVersionId',
  'x_RecordId',
] as const

/** 1.2 has the provider and the publisher of a service where 1.4 has who sells and who hosts it. */
const MANDATORY_OF = {
  '1.4': ['HostProviderName', 'ServiceProviderName'],
  '1.2': ['ProviderName', 'PublisherName'],
} as const
const CONDITIONAL_OF = { '1.4': ['InvoiceDetailId'], '1.2': [] } as const

export type FocusVersion = keyof typeof MANDATORY_OF

export type FocusColumn =
  | (typeof COMMON_MANDATORY)[number]
  | (typeof COMMON_CONDITIONAL)[number]
  | (typeof CUSTOM)[number]
  | (typeof MANDATORY_OF)[FocusVersion][number]
  | (typeof CONDITIONAL_OF)[FocusVersion][number]

/** A row by column; a column that is left out is null. */
export type FocusRow = Partial<Record<FocusColumn, string>>

/** The header of a version, in the order in which cells are written. */
export function focusColumns(version: FocusVersion): FocusColumn[] {
  return [
    ...[...COMMON_MANDATORY, ...MANDATORY_OF[version]].toSorted(),
    ...[...COMMON_CONDITIONAL, ...CONDITIONAL_OF[version]].toSorted(),
    ...CUSTOM,
  ]
}
