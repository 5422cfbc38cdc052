import { Webhook } from 'standardwebhooks'
import { describe, expect, test } from 'vitest'
import { signWebhook, webhookSecrets } from '../../../edge/webhook-signature.ts'
import { TEST_PEPPER } from '../../support/pepper.ts'

const ENDPOINT = { id: 'whe_0', version: 1 }
const BODY = '{"type":"job.succeeded","data":{"job_id":"job_é"}}'

async function verifyWithPublicKey(publicKey: string, text: string, header: string) {
  const raw = Buffer.from(publicKey.replace('whpk_', ''), 'base64')
  const key = await crypto.subtle.importKey('raw', raw, 'Ed25519', false, ['verify'])
  const signature = header.split(' ').find((part) => part.startsWith('v1a,')) ?? ''
  return crypto.subtle.verify(
    'Ed25519',
    key,
    Buffer.from(signature.slice(4), 'base64'),
    Buffer.from(text),
  )
}

describe('signWebhook', () => {
  test('the reference library accepts the message under the shown secret', async () => {
    const { secret } = await webhookSecrets(TEST_PEPPER, ENDPOINT)
    const headers = await signWebhook({ pepper: TEST_PEPPER }, [ENDPOINT], {
      id: 'evt_1',
      at: new Date(),
      body: BODY,
    })
    expect(new Webhook(secret).verify(BODY, headers)).toEqual(JSON.parse(BODY))
    expect(() => new Webhook(secret).verify(`${BODY} `, headers)).toThrow()
  })

  test('the Ed25519 signature verifies under the shown public key and fails for another body', async () => {
    const { publicKey } = await webhookSecrets(TEST_PEPPER, ENDPOINT)
    expect(publicKey).toMatch(/^whpk_[A-Za-z0-9+/]{43}=$/)
    const at = new Date(1_800_000_000_000)
    const headers = await signWebhook({ pepper: TEST_PEPPER }, [ENDPOINT], {
      id: 'evt_1',
      at,
      body: BODY,
    })
    const text = `evt_1.1800000000.${BODY}`
    expect(await verifyWithPublicKey(publicKey, text, headers['webhook-signature'])).toBe(true)
    expect(await verifyWithPublicKey(publicKey, `${text} `, headers['webhook-signature'])).toBe(
      false,
    )
  })

  test('during a rotation both the old and the new secret verify', async () => {
    const next = { id: ENDPOINT.id, version: 2 }
    const headers = await signWebhook({ pepper: TEST_PEPPER }, [next, ENDPOINT], {
      id: 'evt_1',
      at: new Date(),
      body: BODY,
    })
    for (const signer of [next, ENDPOINT]) {
      const { secret } = await webhookSecrets(TEST_PEPPER, signer)
      expect(new Webhook(secret).verify(BODY, headers)).toBeTruthy()
    }
  })

  test('while the pepper is rotated the secrets of both peppers verify', async () => {
    const peppers = { pepper: 'n'.repeat(32), previousPepper: TEST_PEPPER }
    const headers = await signWebhook(peppers, [ENDPOINT], {
      id: 'evt_1',
      at: new Date(),
      body: BODY,
    })
    for (const pepper of [peppers.pepper, TEST_PEPPER]) {
      const { secret } = await webhookSecrets(pepper, ENDPOINT)
      expect(new Webhook(secret).verify(BODY, headers)).toBeTruthy()
    }
  })

  test('every endpoint, version and pepper has a secret of its own', async () => {
    const all = await Promise.all([
      webhookSecrets(TEST_PEPPER, ENDPOINT),
      webhookSecrets(TEST_PEPPER, { id: 'whe_0', version: 2 }),
      webhookSecrets(TEST_PEPPER, { id: 'whe_1', version: 1 }),
      webhookSecrets(`${TEST_PEPPER}x`, ENDPOINT),
    ])
    expect(new Set(all.flatMap((one) => [one.secret, one.publicKey])).size).toBe(8)
  })
})
