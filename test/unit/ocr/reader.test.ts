import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import sharp from 'sharp'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { compareTexts } from '../../../gpu-worker/ocr/compare.ts'
import { createTextReader, TEXT_ENGINE } from '../../../gpu-worker/ocr/reader.ts'
import type { TextReader } from '../../../gpu-worker/ocr/reader.ts'
import { drawTexts } from '../../support/text-pictures.ts'
import type { DrawnText } from '../../support/text-pictures.ts'

let reader: TextReader
let folder: string
beforeAll(async () => {
  reader = createTextReader()
  folder = await mkdtemp(join(tmpdir(), 'reader-'))
})
afterAll(async () => {
  reader.close()
  await rm(folder, { recursive: true })
})

async function read(texts: DrawnText[], size = { width: 512, height: 512 }): Promise<string[]> {
  const reading = await reader.read(await drawTexts(texts, size))
  if (!reading.ok) throw new Error(reading.error)
  return reading.lines.map(({ text }) => text)
}

describe('the reader', () => {
  test.each([
    ['English', 'sans-bold', 'GRAND OPENING'],
    ['English in script', 'script', 'Fresh bread daily'],
    ['Spanish', 'serif', '¿Mañana, señor Ángel Núñez?'],
    ['Chinese', 'chinese-serif', '新年快乐'],
    ['Chinese, round', 'chinese-round', '今日特价八折'],
  ] as const)('reads %s', async (_name, font, text) => {
    const lines = await read([{ text, font, sizePx: 44 }])
    expect(compareTexts([text], lines)).toMatchObject({ wordAccuracy: 1, ned: 1 })
  })

  test('sees one wrong letter and one missing accent', async () => {
    const lines = await read([
      { text: 'GRAND OPENIMG', font: 'sans-bold', sizePx: 50 },
      { text: 'Feliz ano', font: 'serif', sizePx: 50 },
    ])
    expect(compareTexts(['GRAND OPENING', 'Feliz año'], lines).texts).toEqual([
      { expected: 'GRAND OPENING', matched: false, missing: ['opening'] },
      { expected: 'Feliz año', matched: false, missing: ['año'] },
    ])
  })

  test.each([12, -30, 90, 270])('reads lines that are turned by %i degrees', async (degrees) => {
    const file = await drawTexts(
      [
        { text: 'GRAND OPENING', font: 'sans-bold', sizePx: 60 },
        { text: 'Saturday 9am', font: 'serif', sizePx: 50 },
      ],
      { width: 640, height: 640 },
    )
    const turned = await sharp(file).rotate(degrees, { background: '#ffffff' }).png().toBuffer()
    const reading = await reader.read(turned)
    const lines = reading.ok ? reading.lines.map(({ text }) => text) : []
    expect(compareTexts(['GRAND OPENING', 'Saturday 9am'], lines).wordAccuracy).toBe(1)
  })

  test('reads nothing where there is nothing, and small pictures too', async () => {
    expect(await read([])).toEqual([])
    const small = [{ text: 'HELLO', font: 'sans-bold', sizePx: 26 } as const]
    expect(await read(small, { width: 128, height: 128 })).toEqual(['HELLO'])
  })

  test('says that a file is no picture, and reads the next one', async () => {
    expect(await reader.read(new Uint8Array([1, 2, 3]))).toMatchObject({
      ok: false,
      error: 'ocr_failed',
    })
    expect(await read([{ text: 'OPEN', font: 'sans', sizePx: 60 }])).toEqual(['OPEN'])
  })

  test('has an end by its time limit, and is well again after a hang and after a crash', async () => {
    const file = join(folder, 'child.ts')
    await writeFile(
      file,
      `process.on('message', ({ callId, file }) => {
        if (file[0] === 1) process.exit(1)
        if (file[0] === 2) process.send({ callId, lines: [] })
      })`,
    )
    const broken = createTextReader({ timeoutMs: 2_000, childFile: pathToFileURL(file) })
    expect(await broken.read(new Uint8Array([0]))).toMatchObject({
      ok: false,
      error: 'ocr_timeout',
    })
    expect(await broken.read(new Uint8Array([1]))).toMatchObject({
      ok: false,
      error: 'ocr_crashed',
    })
    expect(await broken.read(new Uint8Array([2]))).toMatchObject({ ok: true, lines: [] })
    const signal = AbortSignal.timeout(100)
    await expect(broken.read(new Uint8Array([0]), signal)).rejects.toThrow()
    broken.close()
  })

  test('names the models that it has', async () => {
    const hash = async (name: string) =>
      createHash('sha256')
        .update(await readFile(`gpu-worker/ocr/models/${name}`))
        .digest('hex')
        .slice(0, 8)
    const models = `${await hash('detect.onnx')}-${await hash('recognise.onnx')}`
    expect(TEXT_ENGINE.version.endsWith(models)).toBe(true)
  })
})
