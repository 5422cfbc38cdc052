import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'

import { afterAll, beforeAll, describe, expect, test } from 'vitest'

import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import { planPositions } from '../../../gpu-worker/pipeline/positions.ts'
import { openPromptRenderer, planGrids } from '../../../gpu-worker/pipeline/prompt.ts'
import { createUniforms } from '../../../gpu-worker/pipeline/uniforms.ts'
import { openTokenizer } from '../../../gpu-worker/pipeline/tokenizer.ts'
import {
  openVisualTokenWriter,
  toPrompt,
  upsample,
} from '../../../gpu-worker/pipeline/visual-tokens.ts'
import { createCheckpointCopies } from '../../support/checkpoints.ts'
import type { CheckpointCopies } from '../../support/checkpoints.ts'

const CHECKPOINT = 'test/fixtures/golden/checkpoint'

test.each([
  [512, 512, 16, 16, 16, 16],
  [768, 1152, 36, 24, 19, 13],
  [1152, 1024, 32, 36, 15, 16],
  [1280, 1280, 40, 40, 16, 16],
  [1568, 1056, 33, 49, 13, 19],
  [1472, 1088, 34, 46, 13, 18],
  [1728, 960, 30, 54, 11, 21],
  [1024, 2048, 64, 32, 22, 11],
  [2048, 2048, 64, 64, 16, 16],
])('%d x %d pixels: a %d x %d grid and a %d x %d preview', (width, height, ...expected) => {
  const { large, preview } = planGrids({ width, height, cellPixels: 32 })
  expect([large.rows, large.columns, preview.rows, preview.columns]).toEqual(expected)
})

test('the prompt names rows before columns, the large grid before the preview, then the start', async () => {
  const renderer = await openPromptRenderer(CHECKPOINT)
  const grids = planGrids({ width: 1728, height: 960, cellPixels: 32 })
  const text = renderer.render(' A sign\n', grids)
  expect(text).toMatch(/^ A sign\n<sop>30 54<eop><sop>11 21<eop><\|dit_token_\d+\|>$/)
})

test('fed-back tokens take the positions of the preview, then of the large grid, then of the end', () => {
  const grids = { large: { rows: 2, columns: 3 }, preview: { rows: 1, columns: 2 } }
  const { temporal, height, width } = planPositions(7, grids)
  expect(temporal.slice(0, 7)).toEqual([0, 1, 2, 3, 4, 5, 6])
  expect(temporal.slice(7)).toEqual([7, 7, 9, 9, 9, 9, 9, 9, 12])
  expect(height.slice(7)).toEqual([7, 7, 9, 9, 9, 10, 10, 10, 12])
  expect(width.slice(7)).toEqual([7, 8, 9, 10, 11, 9, 10, 11, 12])
})

test('every cell of the layout becomes two by two patches', () => {
  const patches = upsample(Int32Array.of(1, 2, 3, 4), { rows: 2, columns: 2 })
  expect([...patches]).toEqual([1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4])
})

test('draws depend on the seed and the place alone, and stay in [0, 1)', () => {
  const many = createUniforms(42, 4352)
  expect(createUniforms(42, 7)).toEqual(many.slice(0, 7))
  expect(createUniforms(43, 7)).not.toEqual(many.slice(0, 7))
  expect(many.every((draw) => draw >= 0 && draw < 1)).toBe(true)
  const mean = many.reduce((sum, draw) => sum + draw, 0) / many.length
  expect(Math.abs(mean - 0.5)).toBeLessThan(0.02)
})

test('an edit has its images before the text, one token per cell, and no preview', async () => {
  const renderer = await openPromptRenderer(CHECKPOINT)
  const grids = { large: { rows: 3, columns: 2 }, preview: null }
  const image = (count: number) => `<|dit_token_128|>${'<|image|>'.repeat(count)}<|dit_token_129|>`
  const sources = [
    { rows: 1, columns: 2 },
    { rows: 2, columns: 2 },
  ]
  expect(renderer.render('Turn it', grids, sources)).toBe(
    `${image(2)}${image(4)}Turn it<sop>3 2<eop><|dit_token_128|>`,
  )
})

test('codes stand in the places of their image, and text before, between and after keeps its own', async () => {
  const renderer = await openPromptRenderer(CHECKPOINT)
  const tokenizer = await openTokenizer(CHECKPOINT)
  const { text, ids, places } = toPrompt(
    { renderer, tokenizer },
    {
      prompt: 'Turn it',
      grids: { large: { rows: 3, columns: 2 }, preview: null },
      sources: [
        { grid: { rows: 1, columns: 2 }, codes: Int32Array.of(5, 6) },
        { grid: { rows: 2, columns: 1 }, codes: Int32Array.of(7, 8) },
      ],
    },
  )
  expect(ids.slice(0, 8)).toEqual([128, 5, 6, 129, 128, 7, 8, 129])
  expect(ids.slice(8)).toEqual(tokenizer.encode(text).slice(8))
  expect(places).toEqual([
    { start: 1, rows: 1, columns: 2 },
    { start: 5, rows: 2, columns: 1 },
  ])
})

describe('the files of the processor', () => {
  let copies: CheckpointCopies
  beforeAll(async () => {
    copies = await createCheckpointCopies()
  })
  afterAll(() => copies.remove())

  /** A copy without its template, with other files and keys of the tokenizer's configuration in its place. */
  async function withFiles(files: Record<string, string>, keys: Record<string, unknown> = {}) {
    const dir = await copies.copy(CHECKPOINT)
    const folder = join(dir, 'processor')
    await rm(join(folder, 'chat_template.jinja'))
    for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text)
    const path = join(folder, 'tokenizer_config.json')
    const config = JSON.parse(await readFile(path, 'utf8')) as object
    await writeFile(path, JSON.stringify({ ...config, ...keys }))
    return dir
  }
  const grids = planGrids({ width: 64, height: 64, cellPixels: 32 })
  const renderOf = async (dir: string) => (await openPromptRenderer(dir)).render('A sign', grids)
  const TEMPLATE =
    '{{ bos_token }}{% for part in messages[0].content %}{{ part.text }}{% endfor %}' +
    '{{ pad_token }}{{ add_generation_prompt }}{{ eos_token }}'
  const GRID = '<sop>2 2<eop><sop>16 16<eop><|dit_token_128|>'
  const EXPECTED = `<|dit_token_128|>A sign<|dit_token_129|>false<|dit_token_129|>${GRID}`

  test('the template is found in each of its three places, with the special tokens to fill in', async () => {
    const inJson = JSON.stringify({ chat_template: TEMPLATE })
    const other = 'not {{ messages[0].content[0].text }}'
    const named = [
      { name: 'tools', template: other },
      { name: 'default', template: TEMPLATE },
    ]
    const places: [Record<string, string>, Record<string, unknown>][] = [
      [{ 'chat_template.jinja': TEMPLATE, 'chat_template.json': '{}' }, { chat_template: other }],
      [{ 'chat_template.json': inJson }, { chat_template: other }],
      [{}, { chat_template: TEMPLATE }],
      [{}, { chat_template: named }],
    ]
    for (const [files, keys] of places) {
      expect(await renderOf(await withFiles(files, keys))).toBe(EXPECTED)
    }
  })

  test('tokens may be objects with properties', async () => {
    const token = (content: string) => ({
      content,
      lstrip: false,
      normalized: false,
      rstrip: false,
    })
    const dir = await withFiles(
      { 'chat_template.jinja': TEMPLATE },
      {
        bos_token: token('<|dit_token_128|>'),
        eos_token: token('<|dit_token_129|>'),
        pad_token: token('<|dit_token_129|>'),
        grid_bos_token: token('<sop>'),
      },
    )
    expect(await renderOf(dir)).toBe(EXPECTED)
    const plain = await openTokenizer(CHECKPOINT)
    expect((await openTokenizer(dir)).encode(EXPECTED)).toEqual(plain.encode(EXPECTED))
  })

  test.each<[string, Record<string, string>, RegExp]>([
    ['no template at all', {}, /processor: no chat template in chat_template\.jinja, /],
    ['a template file without one', { 'chat_template.json': '{}' }, /json: chat_template must be/],
    [
      'a template that does not parse',
      { 'chat_template.jinja': '{% for %}' },
      /chat_template\.jinja: the chat template cannot be used: /,
    ],
    [
      'a template that asks for what is not there',
      { 'chat_template.jinja': '{{ messages[0].content[0].text | frobnicate }}' },
      /chat_template\.jinja: the chat template cannot be used: /,
    ],
    [
      'a template that drops the text',
      { 'chat_template.jinja': 'hello' },
      /chat_template\.jinja: the chat template leaves out the text of the message/,
    ],
  ])('%s is refused by file', async (_name, files, reason) => {
    await expect(renderOf(await withFiles(files))).rejects.toMatchObject({
      code: 'model_invalid',
      message: expect.stringMatching(reason),
    })
  })

  test('a template without images serves text, and is refused by file when one comes', async () => {
    const renderer = await openPromptRenderer(await withFiles({ 'chat_template.jinja': TEMPLATE }))
    expect(renderer.render('A sign', grids)).toBe(EXPECTED)
    const edit = { ...grids, preview: null }
    expect(() => renderer.render('A sign', edit, [{ rows: 1, columns: 2 }])).toThrow(
      /chat_template\.jinja: the chat template leaves out images/,
    )
  })

  test('a tokenizer that the library cannot read is refused by file', async () => {
    const dir = await withFiles({ 'tokenizer.json': '{"model":{"type":"Nonsense"}}' })
    await expect(openTokenizer(dir)).rejects.toMatchObject({
      code: 'model_invalid',
      message: expect.stringMatching(/tokenizer\.json: the tokenizer cannot be used: /),
    })
  })

  test.each([
    [
      'bos_token',
      '<|dit_token_129|>',
      /<\|dit_token_129\|> must have the image_start_token_id .* 128, not 129/,
    ],
    ['grid_bos_token', '<grid>', /<grid> must be one token, not \d/],
  ])('a tokenizer of another model is refused: %s', async (key, token, reason) => {
    const dir = await withFiles({ 'chat_template.jinja': TEMPLATE }, { [key]: token })
    const opening = openVisualTokenWriter(await openCheckpoint(dir), { compute: 'float32' })
    await expect(opening).rejects.toMatchObject({
      code: 'model_invalid',
      message: expect.stringMatching(reason),
    })
  })
})
