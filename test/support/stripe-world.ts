import { createStripe } from '../../billing/stripe/client.ts'
import type { StripeDeps } from '../../billing/stripe/client.ts'
import { applyDueEvents, receiveEvent } from '../../billing/stripe/events.ts'
import { setUpStripe } from '../../billing/stripe/setup.ts'
import { subscribe } from '../../billing/stripe/subscription.ts'
import { createId } from '../../db/ids.ts'
import { createTestDatabase } from './database.ts'
import { startFakeStripe } from './fake-stripe/server.ts'
import type { FakeEvent } from './fake-stripe/state.ts'
import { createBareTenant, reserve } from './jobs.ts'
import type { BareTenant } from './jobs.ts'

export const HOUR_MS = 3_600_000
/** The middle of an hour and of a month. */
export const START = Date.UTC(2026, 9, 14, 10, 30)

export type StripeWorld = Awaited<ReturnType<typeof openStripeWorld>>

/** A database, the fake and our side of Stripe, all on the fake's clock. */
export async function openStripeWorld(options: { timeoutMs?: number } = {}) {
  const database = await createTestDatabase()
  const { db } = database
  const fake = await startFakeStripe(START)
  const logged: Record<string, unknown>[] = []
  const deps: StripeDeps = {
    db,
    stripe: createStripe({
      secretKey: 'sk_test_fake',
      webhookSecrets: [fake.secret],
      apiBase: fake.url,
      timeoutMs: options.timeoutMs ?? 5_000,
    }),
    webhookSecrets: [fake.secret],
    now: () => new Date(fake.state.nowMs),
    log: (entry) => void logged.push(entry),
  }
  await setUpStripe(deps.stripe, { webhookUrl: null })
  let delivered = 0

  const receive = async (event: FakeEvent) =>
    receiveEvent(deps, { rawBody: event.body, signature: await fake.sign(event) })
  return {
    db,
    fake,
    deps,
    logged,
    receive,
    /** Sends the news that was not sent yet, in the given order and number, and applies it. */
    async deliver(
      arrange: (events: FakeEvent[]) => FakeEvent[] = (events) => events,
    ): Promise<void> {
      const fresh = fake.state.events.slice(delivered)
      delivered = fake.state.events.length
      for (const event of arrange(fresh)) {
        await receive(event)
        await applyDueEvents(deps, { limit: 10 })
      }
      await applyDueEvents(deps, { limit: 100 })
    },
    /** A postpaid org on the metered price since two hours before the start. */
    async createMetered(): Promise<BareTenant> {
      const tenant = await createBareTenant(db, { settlementMode: 'postpaid' })
      fake.advance(-2 * HOUR_MS)
      await subscribe(deps, { orgId: tenant.orgId, collection: 'charge_automatically' })
      fake.advance(2 * HOUR_MS)
      return tenant
    },
    /** Charged images of an org at a moment, written as settling would. */
    async use(tenant: BareTenant, at: Date, images: number, net = 15_000n): Promise<void> {
      const [known] = await db.sql<
        { id: string }[]
      >`select id from job where org_id = ${tenant.orgId} limit 1`
      let jobId = known?.id
      if (jobId === undefined) {
        const result = await reserve(db, tenant)
        if (!result.ok) throw new Error(result.reason)
        jobId = result.jobId
      }
      await db.sql`
        insert into usage_event (id, job_id, idx, org_id, team_id, key_id, sku_id, price_version_id,
                                 list_version_id, list_micros, discount_micros, net_micros, occurred_at)
        select ${createId('usage')} || '_' || n, ${jobId},
               (select coalesce(max(idx), 0) from usage_event where job_id = ${jobId})::int + n,
               ${tenant.orgId}, ${tenant.teamId}, ${tenant.keyId}, 'sku_glm_image', 'price_glm_image_1',
               'price_glm_image_1', 15000, ${(15_000n - net).toString()}::bigint, ${net.toString()}::bigint, ${at}
          from generate_series(1, ${images}::int) as n`
    },
    /** Takes back one charged image of that hour. */
    async refundImage(tenant: BareTenant, hour: Date): Promise<void> {
      const rows = await db.sql`
        insert into usage_correction (id, usage_event_id, reason, source_id, org_id, team_id, key_id, images,
                                      list_micros, discount_micros, net_micros, credit_micros, occurred_at)
        select ${createId('correction')}, e.id, 'refund', 'test', e.org_id, e.team_id, e.key_id, -1,
               -e.list_micros, -e.discount_micros, -e.net_micros, 0, ${deps.now()}
          from usage_event e
         where e.org_id = ${tenant.orgId} and date_trunc('hour', e.occurred_at, 'UTC') = ${hour}
           and not exists (select 1 from usage_correction c where c.usage_event_id = e.id)
         order by e.id limit 1 returning id`
      if (rows.length === 0) throw new Error('nothing to refund')
    },
    customerOf: async (orgId: string) => {
      const [row] = await db.sql<
        { id: string }[]
      >`select stripe_customer_id as id from org where id = ${orgId}`
      return row?.id ?? ''
    },
    /** Reports of an org, oldest first: hour, revision, quantity and state. */
    reportsOf: (orgId: string) => db.sql<
      {
        hour: Date
        meter: string
        revision: number
        quantity: bigint
        state: string
        channel: string
        error: string | null
      }[]
    >`
      select hour, meter, revision, quantity, state, channel, error from meter_report
       where org_id = ${orgId} order by meter, hour, revision`,
    async close(): Promise<void> {
      await fake.close()
      await database.close()
    },
  }
}
