import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createApiKey, hashApiKey, isWellFormedKey, zaiSecretOf } from '../../../edge/api-key.ts'
import { TEST_PEPPER } from '../../support/pepper.ts'

const OTHER_PEPPER = 'another-pepper-of-at-least-32-characters'

describe('an API key', () => {
  test('has the documented form, 178 random bits and a checksum', async () => {
    const keys = await Promise.all(
      Array.from({ length: 200 }, () => createApiKey(TEST_PEPPER, 'live')),
    )
    for (const { key, last4 } of keys) {
      expect(key).toMatch(/^gp_live_[0-9A-Za-z]{36}$/)
      expect(isWellFormedKey(key)).toBe(true)
      expect(key.endsWith(last4)).toBe(true)
    }
    expect(new Set(keys.map(({ key }) => key)).size).toBe(200)
  })

  test('uses all 62 characters', async () => {
    const seen = new Set<string>()
    for (let round = 0; round < 60; round++) {
      const { key } = await createApiKey(TEST_PEPPER, 'test')
      for (const character of key.slice('gp_test_'.length, -6)) seen.add(character)
    }
    expect(seen.size).toBe(62)
  })

  test('with one character changed is refused by its checksum', async () => {
    const { key } = await createApiKey(TEST_PEPPER, 'live')
    const position = fc.integer({ min: 0, max: key.length - 1 })
    const character = fc.constantFrom(...'0123456789ABCXYZabcxyz_.-'.split(''))
    fc.assert(
      fc.property(position, character, (at, other) => {
        fc.pre(key[at] !== other)
        expect(isWellFormedKey(key.slice(0, at) + other + key.slice(at + 1))).toBe(false)
      }),
    )
  })

  test('with two neighbours swapped is refused by its checksum', async () => {
    const { key } = await createApiKey(TEST_PEPPER, 'live')
    for (let at = 8; at + 1 < key.length; at++) {
      if (key[at] === key[at + 1]) continue
      const swapped = key.slice(0, at) + key.charAt(at + 1) + key.charAt(at) + key.slice(at + 2)
      expect(isWellFormedKey(swapped)).toBe(false)
    }
  })

  test('of any other text is refused', () => {
    fc.assert(fc.property(fc.string(), (text) => !isWellFormedKey(text)))
    for (const text of ['', 'gp_live_', `gp_live_${'0'.repeat(37)}`, `gp_prod_${'0'.repeat(36)}`]) {
      expect(isWellFormedKey(text)).toBe(false)
    }
  })
})

describe('what is stored', () => {
  test('is a keyed hash: the same key under another pepper is another hash', async () => {
    const { key, hash } = await createApiKey(TEST_PEPPER, 'live')
    expect(hash).toMatch(/^[0-9a-f]{64}$/)
    expect(await hashApiKey(TEST_PEPPER, key)).toBe(hash)
    expect(await hashApiKey(OTHER_PEPPER, key)).not.toBe(hash)
  })

  test('does not give the Z.ai secret without the pepper', async () => {
    const { hash } = await createApiKey(TEST_PEPPER, 'live')
    const secret = await zaiSecretOf(TEST_PEPPER, hash)
    expect(secret).toMatch(/^[0-9a-f]{64}$/)
    expect(secret).not.toBe(hash)
    expect(await zaiSecretOf(OTHER_PEPPER, hash)).not.toBe(secret)
  })
})
