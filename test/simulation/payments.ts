import { setTimeout as wait } from 'node:timers/promises'
import { setAutoTopup } from '../../billing/stripe/auto-topup.ts'
import { receiveEvent } from '../../billing/stripe/events.ts'
import { startTopup } from '../../billing/stripe/topup.ts'
import {
  closeDispute,
  expireCheckout,
  openDispute,
  payCheckout,
  refund,
  settleCheckout,
} from '../support/fake-stripe/payments.ts'
import type { FakeEvent } from '../support/fake-stripe/state.ts'
import { persist } from './expected-errors.ts'
import type { Tenant, World } from './world.ts'

const DOLLAR = 1_000_000n

/** A prepaid org buys credit: on pages that are paid, left, or paid late, by card when it runs low. */
export async function runBuyer(world: World, tenant: Tenant, isOver: () => boolean): Promise<void> {
  const random = world.random('buyer')
  const { orgId } = tenant
  const { state } = world.fake
  await persist(world.journal, 'automatic top-up', () =>
    setAutoTopup(world.db, orgId, { belowMicros: DOLLAR / 10n, amountMicros: 5n * DOLLAR }),
  )
  for (let turn = 0; turn < 4 && !isOver(); turn++) {
    await persist(
      world.journal,
      'a top-up',
      () =>
        startTopup(world.stripe, {
          orgId,
          amountMicros: 5n * DOLLAR,
          successUrl: 'https://a.example',
          cancelUrl: 'https://a.example',
        }),
      3,
    )
    for (const { id, status } of state.checkouts.values()) {
      if (status !== 'open') continue
      const fate = random.int(5)
      if (fate === 0) expireCheckout(state, id)
      else if (fate === 1) payCheckout(state, id, 'later')
      else payCheckout(state, id)
    }
    await wait(200)
    for (const { id, intent } of state.checkouts.values()) {
      if (intent === null || state.intents.get(intent)?.status !== 'processing') continue
      settleCheckout(state, id, random.chance(0.7))
    }
  }
  const paid = [...state.intents.values()].filter(({ status }) => status === 'succeeded')
  const [first, second] = random.shuffle(paid)
  if (first && random.chance(0.7)) refund(state, first.id, first.amount)
  if (second && random.chance(0.9)) {
    const dispute = openDispute(state, second.id)
    await wait(200)
    closeDispute(state, dispute, random.chance(0.5) ? 'won' : 'lost')
  }
}

/** Stripe's news on its way: late, doubled, in another order, lost at first, and forged by somebody else. */
export async function runPostman(world: World, isOver: () => boolean): Promise<void> {
  const random = world.random('postman')
  const { fake, ledger } = world
  let taken = 0
  let bag: FakeEvent[] = []
  const note = (kind: string) => {
    if (!world.isQuiet()) ledger.note('Stripe webhook', kind)
  }
  for (let round = 0; !isOver(); round++) {
    await wait(40)
    bag.push(...fake.state.events.slice(taken))
    taken = fake.state.events.length
    if (!world.isQuiet() && bag.length > 1) {
      bag = random.shuffle(bag)
      note('reordered')
    }
    const kept: FakeEvent[] = []
    for (const event of bag) {
      if (!world.isQuiet() && random.chance(0.3)) {
        note('late')
        kept.push(event)
        continue
      }
      if (!(await bring(world, event))) {
        kept.push(event)
        continue
      }
      if (!world.isQuiet() && random.chance(0.2)) {
        note('doubled')
        kept.push(event)
      }
      if (!world.isQuiet() && random.chance(0.1)) {
        note('forged')
        await forge(world, event)
      }
    }
    bag = kept
  }
}

/** @returns whether Stripe heard that it was taken; it sends it again otherwise */
async function bring(world: World, event: FakeEvent): Promise<boolean> {
  const signature = await world.fake.sign(event)
  const answer = await persist(
    world.journal,
    'a webhook',
    () => receiveEvent(world.stripe, { rawBody: event.body, signature }),
    1,
  )
  return answer !== null
}

/** Somebody without the secret says that a payment came. */
async function forge(world: World, event: FakeEvent): Promise<void> {
  const id = `evt_forged_${event.id}`
  const signature = await world.fake.sign(event)
  const rawBody = event.body.replace(event.id, id)
  const answer = await persist(
    world.journal,
    'a forged webhook',
    () => receiveEvent(world.stripe, { rawBody, signature }),
    1,
  )
  if (answer !== null && answer !== 'bad_signature') {
    world.journal.broken.push(`a forged webhook was taken: ${id}`)
  }
}
