import { withTransaction } from '../../db/client.ts'
import { checkBooks } from '../support/books.ts'
import { pace } from './pace.ts'
import type { World } from './world.ts'

const PAUSE_MS = 500
/** The whole of the books is looked at in every so many samples. */
const WHOLE_EVERY = 8

/** Looks at the books in the middle of everything: what holds at rest must hold in each snapshot. */
export function startSampling(world: World): { stop(): Promise<void> } {
  let isOver = false
  const { broken } = world.journal
  const sample = async () => {
    const rows = await world.direct.sql`
      select b.id, b.held_micros, b.spent_micros, b.limit_micros from budget b
        left join lateral (select coalesce(sum(r.amount_micros), 0) as held, count(*) as open
                             from reservation_leg l join reservation r on r.id = l.reservation_id and r.state = 'held'
                            where l.budget_id = b.id) open on true
       where b.held_micros + b.spent_micros > b.limit_micros or b.inflight > b.max_inflight
          or b.held_micros <> open.held or (b.kind = 'balance' and b.inflight <> open.open)`
    if (rows.length > 0) broken.push(`in the middle of it: a budget is wrong: ${toText(rows[0])}`)
  }
  const sampleWhole = async () => {
    const found = await withTransaction(world.direct, async (tx) => {
      await tx.sql`set transaction isolation level repeatable read`
      return await checkBooks(tx)
    })
    broken.push(...found.map((one) => `in the middle of it: ${one}`))
  }
  const loop = async () => {
    for (let count = 1; !isOver && broken.length === 0; count++) {
      await pace(PAUSE_MS, count % WHOLE_EVERY === 0 ? sampleWhole : sample)
    }
  }
  const running = loop()
  return {
    async stop() {
      isOver = true
      await running
    },
  }
}

function toText(row: unknown): string {
  return JSON.stringify(row, (_key, value: unknown) =>
    typeof value === 'bigint' ? value.toString() : value,
  )
}
