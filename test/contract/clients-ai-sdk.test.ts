import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { APICallError, generateImage } from 'ai'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createZhipu } from 'zhipu-ai-provider'
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
afterAll(() => gateway.close())

const PNG = [0x89, 0x50, 0x4e, 0x47]

function startsAsPng(bytes: Uint8Array): boolean {
  return PNG.every((byte, index) => bytes[index] === byte)
}

describe("the AI SDK with Z.ai's provider, unmodified", () => {
  test.each(['apiKey', 'zaiKey'] as const)('draws a picture with the %s', async (form) => {
    const zhipu = createZhipu({ baseURL: `${gateway.url}/api/paas/v4`, apiKey: tenant[form] })
    const { image } = await generateImage({
      model: zhipu.imageModel('glm-image'),
      prompt: "A poster with the words 'GRAND OPENING'",
      size: '1056x1568',
    })
    expect(startsAsPng(image.uint8Array)).toBe(true)
  })

  test('shows the sentence about a bad field', async () => {
    const zhipu = createZhipu({ baseURL: `${gateway.url}/api/paas/v4`, apiKey: tenant.apiKey })
    const refused = generateImage({
      model: zhipu.imageModel('glm-image'),
      prompt: 'A sign',
      size: '1040x1040',
    })
    await expect(refused).rejects.toMatchObject({
      statusCode: 400,
      message: expect.stringContaining('multiple of 32') as unknown,
    })
  })
})

describe('the AI SDK with its OpenAI-compatible provider, unmodified', () => {
  const createModel = (apiKey: string) =>
    createOpenAICompatible({
      name: 'glyphpress',
      baseURL: `${gateway.url}/v1`,
      apiKey,
    }).imageModel('glm-image')

  test('draws pictures', async () => {
    const { images } = await generateImage({
      model: createModel(tenant.apiKey),
      prompt: 'A sign',
      n: 2,
      size: '1024x1024',
    })
    expect(images).toHaveLength(2)
    expect(images.every((image) => startsAsPng(image.uint8Array))).toBe(true)
  })

  test('passes what only this model has on as provider options', async () => {
    await generateImage({
      model: createModel(tenant.apiKey),
      prompt: 'Seeded',
      providerOptions: { glyphpress: { seed: 4_711, output_format: 'webp' } },
    })
    const [job] = await gateway.database.db.sql`
      select seed::int4 as seed, format from job where prompt = 'Seeded'`
    expect(job).toEqual({ seed: 4_711, format: 'webp' })
  })

  test('edits pictures', async () => {
    const draw = (background: string) =>
      sharp({ create: { width: 1024, height: 1024, channels: 3, background } })
        .png()
        .toBuffer()
    const pictures = [await draw('#c00'), await draw('#00c')]
    for (const images of [pictures.slice(0, 1), pictures]) {
      const answer = await generateImage({
        model: createModel(tenant.apiKey),
        prompt: { text: 'Put them side by side', images },
      })
      expect(startsAsPng(answer.image.uint8Array)).toBe(true)
    }
  })

  test('calls once when the key is wrong', async () => {
    const error = await generateImage({
      model: createModel('gp_live_wrong'),
      prompt: 'A sign',
    }).catch((thrown: unknown) => thrown)
    if (!APICallError.isInstance(error)) throw error
    expect(error).toMatchObject({ statusCode: 401, isRetryable: false })
    expect(error.message).toBe('The API key is not valid.')
  })
})
