import { expect, test } from 'vitest'

import { extractGlyphTexts, toGlyphIds } from '../../../gpu-worker/pipeline/glyph.ts'

test.each([
  ['nothing quoted', ['']],
  [`"two" then 'one'`, ['one', 'two']],
  ["it's a dog's bowl", ['s a dog']],
  ["''", ['']],
  ['“左” 「右」 "mid"', ['左', 'mid', '右']],
  ["'line\nbreak'", ['line\nbreak']],
  ['‘curly single’ 『white corner』', ['']],
  ["'open", ['']],
])('%j yields %j', (prompt, texts) => {
  expect(extractGlyphTexts(prompt)).toEqual(texts)
})

test('an odd number of texts has no pad in front, an even number one before each', () => {
  expect(toGlyphIds([''])).toEqual([[1]])
  expect(toGlyphIds(['AB', '你'])).toEqual([
    [0, 68, 69, 1],
    [0, 231, 192, 163, 1],
  ])
})

test('a long text is cut to 2048 ids and keeps its end', () => {
  const [ids = []] = toGlyphIds(['x'.repeat(5000)])
  expect(ids).toHaveLength(2048)
  expect(ids.at(-1)).toBe(1)
})
