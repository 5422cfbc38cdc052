import { describe, expect, test } from 'vitest'
import { quotedTexts, toWords } from '../../../db/text-words.ts'
import { compareTexts, levenshtein } from '../../../gpu-worker/ocr/compare.ts'

describe('words', () => {
  test.each([
    ['Grand  OPENING!\n', ['grand', 'opening']],
    ['¡Feliz año nuevo!', ['feliz', 'año', 'nuevo']],
    ['新年快乐 2026', ['新', '年', '快', '乐', '2026']],
    ['Don’t stop', ["don't", 'stop']],
    ['$9.99, 9:30-17:00', ['$9.99', '9:30', '17:00']],
    ['50% off & more', ['50%', 'off', '&', 'more']],
    ['ＳＡＬＥ', ['sale']],
    ['all-day "deal".', ['all', 'day', 'deal']],
    ['Café', ['café']],
    ['…!', []],
  ])('of %j are %j', (text, words) => {
    expect(toWords(text)).toEqual(words)
  })
})

describe('quoted texts', () => {
  test.each([
    [`A sign 'OPEN' and "Daily" by the door`, ['OPEN', 'Daily']],
    ['海报「新年快乐」和“八折”', ['新年快乐', '八折']],
    [`it's a dog's 'SALE' sign`, ['SALE']],
    [`a mug that says 'Don't panic'`, ["Don't panic"]],
    [`the dogs' house, the cats' house`, []],
    ['no quotes at all', []],
    [`empty '' and '...' and "  "`, []],
  ])('of %j are %j', (prompt, texts) => {
    expect(quotedTexts(prompt)).toEqual(texts)
  })
})

describe('a comparison', () => {
  const accuracy = (expected: string[], read: string[]) => compareTexts(expected, read).wordAccuracy

  test('counts every word, whatever its place, case and punctuation', () => {
    expect(
      compareTexts(['Grand Opening', 'Saturday 9am'], ['SATURDAY 9AM', 'grand', 'opening!']),
    ).toEqual({
      wordAccuracy: 1,
      ned: 1,
      wordCount: 4,
      texts: [
        { expected: 'Grand Opening', matched: true, missing: [] },
        { expected: 'Saturday 9am', matched: true, missing: [] },
      ],
    })
  })
  test('sees one wrong letter, and how near it was', () => {
    const { wordAccuracy, ned, texts } = compareTexts(['GRAND OPENING'], ['GRAND 0PENING'])
    expect(wordAccuracy).toBe(0.5)
    expect(ned).toBeCloseTo((1 + 6 / 7) / 2, 5)
    expect(texts).toEqual([{ expected: 'GRAND OPENING', matched: false, missing: ['opening'] }])
  })
  test('sees a missing accent', () => expect(accuracy(['año'], ['ano'])).toBe(0))
  test('wants a repeated word as often as it is expected', () => {
    expect(accuracy(['SALE', 'SALE'], ['SALE'])).toBe(0.5)
    expect(accuracy(['SALE', 'SALE'], ['SALE SALE'])).toBe(1)
  })
  test('forgives other spaces, and only those', () => {
    expect(accuracy(['GRAND OPENING'], ['GRANDOPENING'])).toBe(1)
    expect(accuracy(['SALE'], ['S ALE'])).toBe(1)
    expect(accuracy(['art'], ['party'])).toBe(0)
    expect(accuracy(['新年快乐'], ['新年', '快乐'])).toBe(1)
  })
  test('costs nothing for more than was expected', () => {
    expect(accuracy(['OPEN'], ['We are', 'OPEN', 'daily', '24 h'])).toBe(1)
  })
  test('of nothing read is 0', () => {
    expect(compareTexts(['OPEN'], [])).toMatchObject({ wordAccuracy: 0, ned: 0 })
  })
  test('measures the distance of letters', () => {
    expect(levenshtein('kitten', 'sitting')).toBe(3)
    expect(levenshtein('', 'abc')).toBe(3)
  })
})
