import { createHash } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { closeStatement } from '../../billing/statement/close.ts'
import { parseMonth } from '../../billing/statement/month.ts'
import { checkFocus, parseCsv } from '../support/focus-check.ts'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { buyAt } from '../support/statement-world.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

const JULY = parseMonth('2026-07')!
let gateway: TestGateway
let tenant: Tenant

beforeAll(async () => {
  gateway = await startTestGateway()
  const { db } = gateway.database
  tenant = await createTenant(db)
  await db.sql`update org set created_at = '2026-07-01T00:00:00Z' where id = ${tenant.orgId}`
  for (const day of ['10', '20'])
    await buyAt(db, tenant, { n: 2, delivered: 2, at: new Date(`2026-07-${day}T12:00:00Z`) })
})
afterAll(() => gateway.close())

function get(path: string, headers: Record<string, string> = {}) {
  return gateway.call('GET', path, { key: tenant.apiKey, headers })
}

const textOf = (body: unknown) => new TextDecoder().decode(body as Uint8Array)

describe('GET /v1/statements/{month}', () => {
  test('an open month is computed, and the current one is a preview', async () => {
    const july = await get('/v1/statements/2026-07')
    expect(july.status).toBe(200)
    expect(july.headers.get('x-statement-state')).toBe('open')
    expect(july.body.total).toMatchObject({ images: 4, due: '0.060000' })
    const { month } = (await get('/v1/statements')).body.data[0]
    expect((await get(`/v1/statements/${month}`)).body.total.images).toBe(0)
  })

  test('CSV, HTML and FOCUS are sent as files of their type', async () => {
    const csv = await get('/v1/statements/2026-07?format=csv')
    expect(csv.headers.get('content-type')).toBe('text/csv; charset=utf-8')
    expect(csv.headers.get('content-disposition')).toBe(
      'attachment; filename="statement-2026-07.csv"',
    )
    expect(parseCsv(textOf(csv.body)).rows.find((row) => row.section === 'total')).toMatchObject({
      images: '4',
    })
    const html = await get('/v1/statements/2026-07?format=html')
    expect(html.headers.get('content-security-policy')).toContain("default-src 'none'")
    expect(textOf(html.body)).toContain('Statement for July 2026')
    for (const version of ['1.4', '1.2'] as const) {
      const focus = await get(`/v1/statements/2026-07?format=focus&focus_version=${version}`)
      expect(checkFocus(textOf(focus.body), version)).toEqual([])
      expect(parseCsv(textOf(focus.body)).rows).toHaveLength(4)
    }
  })

  test("a team's statement is its part; that of another org's team is not there", async () => {
    const own = await get(`/v1/statements/2026-07?team=${tenant.teamId}`)
    expect(own.body.team.id).toBe(tenant.teamId)
    const stranger = await createTenant(gateway.database.db)
    expect((await get(`/v1/statements/2026-07?team=${stranger.teamId}`)).status).toBe(404)
  })

  test('a month of the future or none at all is not there; an unknown form is refused', async () => {
    for (const month of ['2099-01', '2026-13', '2026-7', 'x'])
      expect((await get(`/v1/statements/${month}`)).status).toBe(404)
    expect((await get('/v1/statements/2026-07?format=pdf')).status).toBe(400)
  })

  test('a closed month is the stored bytes, proven by the hash, and known again by its tag', async () => {
    const { db } = gateway.database
    const other = await createTenant(db)
    await buyAt(db, other, { n: 1, delivered: 1, at: new Date('2026-07-05T00:00:00Z') })
    const scope = { orgId: other.orgId, teamId: null, month: JULY }
    const closed = await closeStatement(db, scope)
    await db.sql`update org set name = 'Later' where id = ${other.orgId}`
    const url = new URL('/v1/statements/2026-07', gateway.url)
    const headers = { authorization: `Bearer ${other.apiKey}` }
    const response = await fetch(url, { headers })
    const bytes = Buffer.from(await response.arrayBuffer())
    expect(response.headers.get('x-statement-state')).toBe('closed')
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    expect(response.headers.get('x-statement-sha256')).toBe(sha256)
    expect(closed).toMatchObject({ ok: true, file: { sha256, json: bytes.toString() } })
    const tag = response.headers.get('etag') ?? ''
    const again = await fetch(url, { headers: { ...headers, 'if-none-match': tag } })
    expect(again.status).toBe(304)
    await again.arrayBuffer()
  })
})

test('GET /v1/statements lists the months since the org exists, newest first', async () => {
  await closeStatement(gateway.database.db, { orgId: tenant.orgId, teamId: null, month: JULY })
  const { data } = (await get('/v1/statements')).body
  expect(data.at(-1)).toMatchObject({ month: '2026-07', state: 'closed' })
  expect(data.at(-2)).toMatchObject({ month: '2026-08', state: 'open', sha256: null })
  expect(data[0].state).toBe('current')
  const months: string[] = data.map((item: { month: string }) => item.month)
  expect(months).toEqual(months.toSorted((a, b) => b.localeCompare(a)))
  const team = (await get(`/v1/statements?team=${tenant.teamId}`)).body.data
  expect(team.at(-1)).toMatchObject({ month: '2026-07', state: 'open' })
})
