import type { World } from './world.ts'

/** What the product keeps of Stripe's objects, at rest: each is as far as it is with Stripe, and none is missing. */
export async function checkCopies(world: World): Promise<string[]> {
  const { state } = world.fake
  const { sql } = world.direct
  const kept = await sql<{ id: string; state: string }[]>`
    select id, state from invoice union all select id, state from dispute`
  const stateOf = new Map(kept.map(({ id, state }) => [id, state]))
  const disputes = [...state.disputes.values()].map(({ id, status }) => ({
    id,
    status: status === 'won' || status === 'lost' ? status : 'open',
  }))
  return [...state.invoices.values(), ...disputes]
    .filter(({ id, status }) => stateOf.get(id) !== status)
    .map(
      ({ id, status }) => `lost: ${id} is ${status} at Stripe and ${stateOf.get(id) ?? 'not'} here`,
    )
}
