import { createHash } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import OpenAI, { toFile } from 'openai'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { drawPicture } from '../support/pictures.ts'
import { keyIn, openStack } from '../support/stack.ts'
import type { Stack } from '../support/stack.ts'

let stack: Stack
beforeAll(async () => {
  stack = await openStack()
})
afterAll(() => stack.close())

test('npm start edits pictures for the unmodified openai client, and keeps none of them', async () => {
  const key = keyIn((await stack.start()).text())
  const client = new OpenAI({ apiKey: key, baseURL: `http://127.0.0.1:${stack.port}/v1` })
  const bytes = await drawPicture(1, { width: 96, height: 64 })
  const other = await drawPicture(2, { width: 64, height: 64 }, 'webp')
  const order = {
    model: 'glm-image',
    prompt: "Write 'Sale' on it",
    response_format: 'b64_json' as const,
  }
  const edit = async (...files: Uint8Array[]) => {
    const image = await Promise.all(files.map((file, at) => toFile(file, `${at}.png`)))
    return client.images.edit(
      { ...order, image },
      { headers: { 'idempotency-key': String(files.length) } },
    )
  }
  const one = await edit(bytes)
  expect(one).toMatchObject({ size: '96x64', billed: true, cost: '0.015000' })
  const two = await edit(bytes, other)
  expect(await edit(bytes, other)).toMatchObject({ id: (two as unknown as { id: string }).id })
  const pictures = [one, two].map((answer) =>
    Buffer.from(answer.data?.[0]?.b64_json ?? '', 'base64'),
  )
  expect(pictures.every((picture) => picture.length > 100)).toBe(true)
  const shown = await stack.call(`/v1/jobs/${(two as unknown as { id: string }).id}`, key)
  const sums = [bytes, other].map((file) => createHash('sha256').update(file).digest('hex'))
  const { inputs } = (await shown.json()) as { inputs: { sha256: string }[] }
  expect(inputs.map(({ sha256 }) => sha256)).toEqual(sums)
  await expect.poll(() => readdir(join(stack.stateDir, 'objects/inputs'))).toEqual([])
})
