import { centsOf } from '../support/fake-stripe/invoicing.ts'
import { totalOf } from '../support/fake-stripe/metering.ts'
import { isDue } from './journal.ts'
import type { World } from './world.ts'

/** Stripe's own books against the pictures that can be fetched: meter totals, invoices, and who must have neither. */
export async function checkStripe(world: World): Promise<string[]> {
  const broken: string[] = []
  const { state } = world.fake
  for (const tenant of world.tenants) {
    const { orgId, mode, isMetered, unitMicros } = tenant
    const [org] = await world.direct.sql<{ customer: string | null }[]>`
      select stripe_customer_id as customer from org where id = ${orgId}`
    const customer = org?.customer ?? null
    const pictures = await world.direct.sql<{ jobId: string; sha256: string }[]>`
      select o.job_id as "jobId", o.sha256 from job_output o join job j on j.id = o.job_id
       where j.org_id = ${orgId} and j.state = 'succeeded'`
    const charged = pictures.filter(({ jobId, sha256 }) => isDue(world.journal, jobId, sha256))
    const [usage] = await world.direct.sql<{ refunded: bigint; credit: bigint }[]>`
      select (select count(*) from usage_correction c where c.org_id = ${orgId} and c.reason = 'refund') as refunded,
             (select coalesce(sum(credit_micros), 0)::bigint from (
                select credit_micros from usage_event where org_id = ${orgId} union all
                select credit_micros from usage_correction where org_id = ${orgId}) x) as credit`
    const images = BigInt(charged.length) - (usage?.refunded ?? 0n)
    const credit = usage?.credit ?? 0n
    const events = state.meterEvents.filter((event) => event.customer === customer)
    const invoices = [...state.invoices.values()].filter((one) => one.customer === customer)
    const items = [...state.items.values()].filter((one) => one.customer === customer)
    if (!isMetered && events.length > 0)
      broken.push(`doubled: ${mode} org ${orgId} is on the meter`)
    if (mode !== 'postpaid') {
      if (items.length + invoices.length > 0)
        broken.push(`doubled: ${mode} org ${orgId} is invoiced`)
      const [told] = await world.direct.sql`
        select id from meter_report where org_id = ${orgId} limit 1`
      if (told) broken.push(`doubled: ${mode} org ${orgId} has a report`)
      continue
    }
    const byKey = Map.groupBy(items, ({ metadata }) => metadata.identifier)
    for (const [key, same] of byKey) {
      if (same.length > 1 && key !== undefined) broken.push(`doubled: item ${key} at Stripe`)
    }
    // One cent for each line; an adjustment is exact, and another one mends what a late refund leaves of it.
    const lines = items.filter(({ metadata }) => metadata.adjusts_invoice === undefined)
    const hours = new Set(events.map(({ hourMs }) => hourMs))
    let metered = 0n
    let cents = 0
    for (const hour of hours) metered += totalOf(state, customer ?? '', hour) ?? 0n
    for (const invoice of invoices) {
      if (invoice.frozenQuantity !== null && invoice.subscription !== null)
        cents += centsOf(invoice.frozenQuantity)
    }
    for (const { amount } of items) cents += amount
    const dueMicros = images * unitMicros - credit
    const difference = BigInt(cents) * 10_000n - dueMicros
    const bound = 10_000n * BigInt(invoices.length + lines.length + 1)
    const isInvoiced = world.isMonthOver()
    if (isMetered && !isInvoiced && metered !== images)
      broken.push(
        `${metered > images ? 'doubled' : 'lost'}: the meter holds ${metered} images of ${orgId}, delivered are ${images}`,
      )
    if (isInvoiced && (difference > bound || difference < -bound))
      broken.push(
        `${difference > 0n ? 'doubled' : 'lost'}: invoices of ${orgId} ask ${cents} cents for ${images} images, ${dueMicros} micro-USD`,
      )
    const pending = items.filter(({ invoice }) => invoice === null)
    if (isInvoiced && !isMetered && pending.length > 0 && invoices.length === 0)
      broken.push(`lost: items of ${orgId} wait for an invoice that nobody makes`)
  }
  return broken
}
