import type { Db } from '../../db/client.ts'
import { moveKey } from '../../billing/move-key.ts'
import { insertKey } from '../../db/keys.ts'
import { insertBalance } from '../../db/orgs.ts'
import { grantCredit } from '../../billing/credit.ts'
import { buyAt, dateGrant, dateMove, giveAt, holdAt, refundAt, rewrite } from './statement-world.ts'

export const GOLDEN_ORGS = {
  prepaid: 'org_golden_prepaid',
  postpaid: 'org_golden_postpaid',
  internal: 'org_golden_internal',
} as const

/**
 * Three small orgs, one of each settlement mode, with two teams each: full and partial deliveries, a contract discount,
 * promotional credit, a refund of the month before, a key that moved and a job that had not ended, all in October 2026.
 * Every id and instant is fixed.
 */
export async function createGoldenWorld(db: Db): Promise<void> {
  for (const [mode, orgId] of Object.entries(GOLDEN_ORGS)) await createGoldenOrg(db, mode, orgId)
  await db.sql`
    insert into invoice (id, org_id, period_start, period_end, state, amount_micros, tax_micros)
    values ('in_golden', ${GOLDEN_ORGS.postpaid}, '2026-10-01T00:00:00Z', '2026-11-01T00:00:00Z', 'open', 60000, 11400)`
}

async function createGoldenOrg(db: Db, mode: string, orgId: string): Promise<void> {
  const id = (name: string) => `${name}_golden_${mode}`
  const kind = mode === 'internal' ? 'internal' : 'external'
  await db.sql`
    insert into org (id, name, kind, settlement_mode)
    values (${orgId}, ${'Müller & Söhne <Print>, "Leipzig"'}, ${kind}, ${mode})`
  await insertBalance(db, 'org', orgId, mode === 'prepaid' ? { creditMicros: 0n } : {})
  const [design, spring] = [
    { orgId, teamId: id('team_design'), keyId: id('key_posters') },
    { orgId, teamId: id('team_spring'), keyId: id('key_menus') },
  ]
  await db.sql`
    insert into team (id, org_id, name, cost_centre)
    values (${design.teamId}, ${orgId}, 'Design', 'CC-100'), (${spring.teamId}, ${orgId}, '=Spring', 'CC-200')`
  if (mode !== 'internal')
    await db.sql`
      insert into ledger_account (id, org_id, type)
      select type || ':' || ${orgId}, ${orgId}, type from unnest(array['prepaid', 'promo', 'receivable']) as type`
  for (const { teamId, keyId } of [design, spring]) {
    if (mode === 'internal')
      await db.sql`
        insert into ledger_account (id, org_id, team_id, type)
        values (${`team_cost:${teamId}`}, ${orgId}, ${teamId}, 'team_cost')`
    await insertBalance(db, 'team', teamId, {})
    await insertKey(db, {
      keyId,
      orgId,
      teamId,
      name: keyId.includes('posters') ? 'Posters' : 'Menus, daily',
      env: 'live',
      hash: keyId,
      last4: 'a1b2',
      scopes: ['generate'],
    })
  }
  await db.sql`
    update api_key set tags = '{"project": "spring sale", "channel": "shop;web"}' where id = ${design.keyId}`
  if (mode === 'prepaid') {
    await grantCredit(db, { orgId, amountMicros: 25_000_000n, sourceId: id('topup') })
    await dateGrant(db, { sourceId: id('topup'), at: new Date('2026-10-02T08:30:00Z') })
  }
  const at = (text: string) => new Date(`2026-${text}:00Z`)
  const job = (number: number) => id(`job_${number}`)
  await buyAt(db, design, { id: job(1), n: 1, delivered: 1, at: at('09-30T23:59') })
  await buyAt(db, design, { id: job(2), n: 2, delivered: 2, at: at('10-01T00:00') })
  await buyAt(db, spring, { id: job(3), n: 3, delivered: 2, at: at('10-12T09:15') })
  if (mode !== 'internal') {
    const gift = { orgId, amountMicros: 9_000n, sourceId: id('gift') }
    await giveAt(db, { ...gift, at: at('10-15T12:00') })
  }
  await buyAt(db, spring, { id: job(4), n: 1, delivered: 1, at: at('10-31T23:59') })
  await holdAt(db, design, { id: job(5), n: 2, at: at('10-31T23:58') })
  await rewrite(db, async ({ sql }) => {
    await sql`update usage_event set list_micros = 20000, discount_micros = 5000 where job_id = ${job(3)}`
  })
  const refunded = `use_${job(1).slice(4)}_0`
  await refundAt(db, { usageId: refunded, at: at('10-05T10:00'), id: id('cor_refund') })
  const move = { keyId: spring.keyId, teamId: design.teamId, validFrom: at('10-31T00:00') }
  const moved = await moveKey(db, move)
  if (!moved.ok) throw new Error(moved.reason)
  await dateMove(db, moved.assignmentId, at('10-31T23:59'))
  await rewrite(
    db,
    ({ sql }) => sql`
    update usage_correction set id = ${id('cor')} || '_' || reason
     where org_id = ${orgId} and reason <> 'refund'`,
  )
}
