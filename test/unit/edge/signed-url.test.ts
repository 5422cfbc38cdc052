import { describe, expect, test } from 'vitest'
import { isEqualConstantTime, signOutputUrl, verifyOutputUrl } from '../../../edge/signed-url.ts'
import { TEST_PEPPER } from '../../support/pepper.ts'

const EXPIRES_AT = new Date('2027-01-01T00:00:00.900Z')
const before = { pepper: TEST_PEPPER, now: () => new Date('2026-12-31T23:59:59Z') }
const after = { pepper: TEST_PEPPER, now: () => new Date('2027-01-01T00:00:00Z') }

async function signed() {
  const url = new URL(
    await signOutputUrl(
      { pepper: TEST_PEPPER, publicUrl: 'https://img.example/' },
      { jobId: 'job_0', idx: 1, format: 'png', expiresAt: EXPIRES_AT },
    ),
  )
  return {
    url,
    path: url.pathname,
    exp: url.searchParams.get('exp') ?? '',
    sig: url.searchParams.get('sig') ?? '',
  }
}

describe('signed URLs', () => {
  test('a fresh URL is on the public origin and good until its second of expiry', async () => {
    const { url, ...request } = await signed()
    expect(url.origin).toBe('https://img.example')
    expect(url.pathname).toBe('/v1/files/job_0/1.png')
    expect(await verifyOutputUrl(before, request)).toEqual({
      ok: true,
      expiresAt: new Date('2027-01-01T00:00:00Z'),
    })
    expect(await verifyOutputUrl(after, request)).toEqual({ ok: false, reason: 'expired' })
  })

  test('any change of path, index, ending, expiry, signature or pepper is refused', async () => {
    const { path, exp, sig } = await signed()
    const flipped = `${sig.slice(0, -2)}${sig.at(-2) === 'A' ? 'B' : 'A'}${sig.at(-1)}`
    const changes = [
      { path: path.replace('job_0', 'job_1'), exp, sig },
      { path: path.replace('1.png', '0.png'), exp, sig },
      { path: path.replace('png', 'webp'), exp, sig },
      { path, exp: String(Number(exp) + 1), sig },
      { path, exp: `0${exp}`, sig },
      { path, exp: `${exp}.0`, sig },
      { path, exp: '', sig },
      { path, exp: '9'.repeat(30), sig },
      { path, exp, sig: flipped },
      { path, exp, sig: sig.slice(0, -1) },
      { path, exp, sig: `${sig}A` },
      { path, exp, sig: '' },
    ]
    for (const change of changes)
      expect(await verifyOutputUrl(before, change)).toEqual({ ok: false, reason: 'bad_signature' })
    expect(
      await verifyOutputUrl({ ...before, pepper: `${TEST_PEPPER}!` }, { path, exp, sig }),
    ).toEqual({ ok: false, reason: 'bad_signature' })
  })

  test('a URL of the pepper before is good while that one is given, and until its own expiry', async () => {
    const { url: _url, ...request } = await signed()
    const pepper = 'n'.repeat(32)
    const rotated = { ...before, pepper, previousPepper: TEST_PEPPER }
    expect(await verifyOutputUrl(rotated, request)).toMatchObject({ ok: true })
    expect(await verifyOutputUrl({ ...rotated, now: after.now }, request)).toEqual({
      ok: false,
      reason: 'expired',
    })
    expect(await verifyOutputUrl({ ...before, pepper }, request)).toMatchObject({ ok: false })
  })

  test('the comparison tells equal from prefix, extension and empty', () => {
    expect(isEqualConstantTime('abc', 'abc')).toBe(true)
    for (const given of ['abd', 'ab', 'abcabc', 'abca', ''])
      expect(isEqualConstantTime('abc', given)).toBe(false)
    expect(isEqualConstantTime('', 'a')).toBe(false)
  })
})
