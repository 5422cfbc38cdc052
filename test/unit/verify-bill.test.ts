import { expect, test } from 'vitest'
import type { Receipt } from '../../billing/receipt.ts'
import { verifyBill } from '../../billing/verify-bill.ts'
import type { StatedAmounts, StatedBill } from '../../billing/verify-bill.ts'

function receipt(job: string, changes: Partial<Receipt> = {}): Receipt {
  return {
    job,
    index: 0,
    images: 1,
    org: 'org_1',
    team: 'team_1',
    key: 'key_1',
    model: 'glm-image',
    weights_hash: null,
    size: '64x64',
    seed: 1,
    sha256: null,
    billed: true,
    reason: 'delivered',
    sku: 'sku_1',
    price_version: 'price_1',
    currency: 'USD',
    list: '0.015000',
    discount: '0.005000',
    net: '0.010000',
    credit: '0.000000',
    gpu_seconds: null,
    occurred_at: '2026-10-31T23:59:59.999Z',
    ...changes,
  }
}

const RECEIPTS = [
  receipt('job_1'),
  receipt('job_1', { index: 1, credit: '0.004000' }),
  receipt('job_2', { key: 'key_2', occurred_at: '2026-10-01T00:00:00.000Z' }),
]

const amounts = (images: number, credit = '0.000000'): StatedAmounts => ({
  images,
  list: `0.0${images * 15}000`,
  discount: `0.0${String(images * 5).padStart(2, '0')}000`,
  net: `0.0${images * 10}000`,
  credit,
})

const BILL: StatedBill = {
  period_start: '2026-10-01T00:00:00Z',
  period_end: '2026-11-01T00:00:00Z',
  org: { id: 'org_1' },
  team: null,
  usage: amounts(3, '0.004000'),
  by_key: [
    { key_id: 'key_1', usage: amounts(2, '0.004000') },
    { key_id: 'key_2', usage: amounts(1) },
  ],
  by_sku: [{ sku_id: 'sku_1', usage: amounts(3, '0.004000') }],
  by_day: [
    { day: '2026-10-01', usage: amounts(1) },
    { day: '2026-10-31', usage: amounts(2, '0.004000') },
  ],
}

test('a right bill has no difference, and receipts of another month, org or of nothing delivered do not count', () => {
  const others = [
    receipt('job_3', { occurred_at: '2026-11-01T00:00:00.000Z' }),
    receipt('job_4', { occurred_at: '2026-09-30T23:59:59.999Z' }),
    receipt('job_5', { org: 'org_2' }),
    receipt('job_6', { index: null, price_version: null, billed: false }),
  ]
  expect(verifyBill([...RECEIPTS, ...others], BILL)).toEqual({
    counted: 3,
    ignored: 4,
    differences: [],
  })
})

test("a team's statement is proved by the team's receipts alone", () => {
  const bill = { ...BILL, team: { id: 'team_1' } }
  const other = receipt('job_7', { team: 'team_2' })
  expect(verifyBill([...RECEIPTS, other], bill).differences).toEqual([])
})

test('a changed sum is named with both figures, in the whole and in each part', () => {
  const usage = { ...BILL.usage, net: '0.031000' }
  expect(verifyBill(RECEIPTS, { ...BILL, usage }).differences).toEqual([
    'the month: the statement says net 0.031000, the receipts say 0.030000',
  ])
  const day = { day: '2026-10-02', usage: amounts(1) }
  expect(verifyBill(RECEIPTS, { ...BILL, by_day: [...BILL.by_day, day] }).differences).toContain(
    'day 2026-10-02: the statement says images 1, the receipts say 0',
  )
})

test('a missing receipt is a difference of the month, its key, SKU and day', () => {
  const { differences } = verifyBill(RECEIPTS.slice(0, 2), BILL)
  for (const name of ['the month', 'key key_2', 'SKU sku_1', 'day 2026-10-01'])
    expect(differences.some((text) => text.startsWith(`${name}: the statement says images`))).toBe(
      true,
    )
})

test('two receipts of one picture, and one that does not add up, are differences', () => {
  const twice = verifyBill([...RECEIPTS, receipt('job_1')], BILL).differences
  expect(twice).toContain('picture 0 of job_1 has two receipts')
  const [first, ...rest] = RECEIPTS
  const wrong = { ...(first ?? receipt('job_1')), net: '0.011000' }
  expect(verifyBill([wrong, ...rest], BILL).differences).toContain(
    'the receipt of picture 0 of job_1 does not add up',
  )
})
