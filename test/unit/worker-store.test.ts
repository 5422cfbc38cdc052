import { createHash } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createId } from '../../db/ids.ts'
import { isObjectKey } from '../../edge/objects.ts'
import { createFileStore } from '../../gpu-worker/store.ts'
import type { Picture } from '../../gpu-worker/store.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'store-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

function picture(text: string, format: Picture['format'] = 'png'): Picture {
  const bytes = new TextEncoder().encode(text)
  const sha256 = createHash('sha256').update(bytes).digest('hex')
  const place = { jobId: createId('job'), attempt: 1, idx: 0 }
  return { ...place, bytes, sha256, contentType: `image/${format}`, format }
}

test.each(['png', 'webp', 'jpeg', 'avif'] as const)(
  '%s: the gateway accepts the key',
  async (format) => {
    expect(isObjectKey(await createFileStore(folder).put(picture('a', format)))).toBe(true)
  },
)

test('a picture stored twice, also at the same time, is one whole file and no draft is left', async () => {
  const store = createFileStore(folder)
  const same = picture('twice')
  const keys = await Promise.all([store.put(same), store.put(same), store.put(same)])
  const key = keys[0] ?? ''
  expect(new Set(keys).size).toBe(1)
  expect(await readFile(join(folder, key), 'utf8')).toBe('twice')
  expect(await readdir(join(folder, key, '..'))).toEqual([`0-1-${same.sha256}.png`])
})

test('a file that a crash left too short is replaced', async () => {
  const store = createFileStore(folder)
  const whole = picture('whole picture')
  const path = join(folder, await store.put(whole))
  await writeFile(path, 'who')
  await store.put(whole)
  expect(await readFile(path, 'utf8')).toBe('whole picture')
})

test('a put whose signal is aborted leaves nothing behind', async () => {
  const one = picture('late')
  const store = createFileStore(folder)
  await expect(store.put(one, AbortSignal.abort())).rejects.toThrow()
  expect(await readdir(join(folder, 'images', one.jobId))).toEqual([])
})

test('a removed picture is gone, its neighbours stay, and removing it again is done', async () => {
  const store = createFileStore(folder)
  const first = picture('first')
  const second = { ...picture('second'), jobId: first.jobId, idx: 1 }
  const [key, other] = [await store.put(first), await store.put(second)]
  await store.remove(key)
  await store.remove(key)
  await expect(readFile(join(folder, key))).rejects.toThrow('ENOENT')
  expect(await readFile(join(folder, other), 'utf8')).toBe('second')
})

test('bytes that are not what their checksum says are refused and leave nothing', async () => {
  const empty = join(folder, 'empty')
  const wrong = { ...picture('a'), bytes: new TextEncoder().encode('b') }
  await expect(createFileStore(empty).put(wrong)).rejects.toThrow('checksum')
  await expect(readdir(empty)).rejects.toThrow('ENOENT')
})
