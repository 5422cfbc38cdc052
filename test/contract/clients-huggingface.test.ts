import { InferenceClient } from '@huggingface/inference'
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest'
import { startTestGateway } from '../support/gateway.ts'
import type { TestGateway } from '../support/gateway.ts'
import { createTenant } from '../support/tenant.ts'
import type { Tenant } from '../support/tenant.ts'

let gateway: TestGateway
let tenant: Tenant
beforeAll(async () => {
  gateway = await startTestGateway()
  tenant = await createTenant(gateway.database.db)
})
afterEach(() => vi.unstubAllGlobals())
afterAll(() => gateway.close())

const MODEL = 'zai-org/GLM-Image'
const MAPPING = {
  'zai-org': { status: 'live', providerId: 'glm-image', task: 'text-to-image' },
}

/**
 * The client knows Z.ai's host alone and polls through the global `fetch`: calls to that host go to the gateway,
 * and the look-up of the provider's model name gets the answer that the hub gives.
 */
function redirect(): string[] {
  const realFetch = globalThis.fetch
  const paths: string[] = []
  vi.stubGlobal('fetch', (input: string | URL, init?: RequestInit) => {
    const url = new URL(input)
    if (url.host === 'huggingface.co') {
      return Promise.resolve(Response.json({ inferenceProviderMapping: MAPPING }))
    }
    if (url.host !== 'api.z.ai') return realFetch(url, init)
    paths.push(url.pathname)
    return realFetch(new URL(url.pathname + url.search, gateway.url), init)
  })
  return paths
}

describe('the unmodified Hugging Face client with Z.ai as its provider', () => {
  test('asks, polls and downloads the picture', async () => {
    const paths = redirect()
    const picture = await new InferenceClient(tenant.zaiKey).textToImage(
      { provider: 'zai-org', model: MODEL, inputs: "A sign 'OPEN'" },
      { outputType: 'blob' },
    )
    expect(picture.type).toBe('image/png')
    expect(picture.size).toBeGreaterThan(100)
    expect(paths[0]).toBe('/api/paas/v4/async/images/generations')
    expect(paths[1]).toMatch(/^\/api\/paas\/v4\/async-result\/job_/)
  })

  test('hears of a failed task', async () => {
    redirect()
    gateway.finisher.mode = 'fail'
    const asked = new InferenceClient(tenant.zaiKey).textToImage({
      provider: 'zai-org',
      model: MODEL,
      inputs: 'A sign',
    })
    // In the first answer or at the first poll, whichever the worker was quick enough for.
    await expect(asked).rejects.toThrow(/task (status: FAIL|failed)/)
  })
})
