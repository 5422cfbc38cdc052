import { compareTexts, levenshtein } from '../ocr/compare.ts'

/** What a picture adds to the sums that a score is made of. */
export interface Tally {
  /** Expected words, or characters of Chinese. */
  readonly expected: number
  readonly found: number
  /** Sum of the nearness of each expected word; null where the protocol has none. */
  readonly nearness: number | null
}

export const SUITES = ['ours', 'cvtg2k', 'longtext'] as const
export type Suite = (typeof SUITES)[number]

/** How each suite is scored, and in what that differs from the published one; part of every report. */
export const PROTOCOLS: Readonly<Record<Suite, { name: string; differs: string | null }>> = {
  ours: {
    name: 'The rules of the text guarantee: case, punctuation and order do not count, accents and repeats do.',
    differs: null,
  },
  cvtg2k: {
    name: 'CVTG-2K: words between plain single quotes, lower-cased; a word is right when it is among the words read, repeats not consumed; NED to the nearest word read; both pooled over all words.',
    differs:
      'Read by PP-OCRv6 small without an angle classifier, where the published figures used PaddleOCR for English with one. CLIPScore is not computed.',
  },
  longtext: {
    name: 'LongText-Bench: letters, digits and Chinese characters; English words, lower-cased, and Chinese characters as multisets; their intersection over what was expected, pooled over all pictures.',
    differs:
      'Read by PP-OCRv6 small, where the published figures used Qwen2.5-VL-7B, which may repair what it reads.',
  },
}

/** What one picture adds to its suite's score. */
export function tallyOf(suite: Suite, texts: readonly string[], lines: readonly string[]): Tally {
  switch (suite) {
    case 'ours':
      return tallyOurs(texts, lines)
    case 'cvtg2k':
      return tallyCvtg(texts, lines)
    case 'longtext':
      return tallyLongText(texts, lines)
  }
}

function tallyOurs(texts: readonly string[], lines: readonly string[]): Tally {
  const { wordAccuracy, ned, wordCount } = compareTexts(texts, lines)
  return {
    expected: wordCount,
    found: Math.round(wordAccuracy * wordCount),
    nearness: ned * wordCount,
  }
}

/**
 * Membership alone, so that a word which is expected twice needs to be read once. Punctuation belongs to its word.
 *
 * @source Du et al. 2025, TextCrafter, and its published evaluator
 */
function tallyCvtg(texts: readonly string[], lines: readonly string[]): Tally {
  const read = lines.flatMap(toPlainWords)
  const words = texts.flatMap(toPlainWords)
  const known = new Set(read)
  const nearness = words.reduce((sum, word) => {
    const closest = closestMatch(word, read)
    if (closest === null) return sum
    const longer = Math.max(lengthOf(word), lengthOf(closest))
    return sum + 1 - levenshtein(word, closest) / (longer + 1e-5)
  }, 0)
  return { expected: words.length, found: words.filter((word) => known.has(word)).length, nearness }
}

function toPlainWords(text: string): string[] {
  return text
    .toLowerCase()
    .split(/\s+/u)
    .filter((word) => word !== '')
}

const HAN = /[\u4e00-\u9fa5]/u
const NOT_KEPT = /[^\u4e00-\u9fa5A-Za-z0-9\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u00ff\u0152\u0153\s]/gu

/** @source Geng et al. 2025, X-Omni, and the published evaluator of its LongText-Bench */
function tallyLongText(texts: readonly string[], lines: readonly string[]): Tally {
  const isChinese = texts.some((text) => HAN.test(text))
  const toUnits = (parts: readonly string[]): string[] => {
    const clean = parts.join(' ').replaceAll(NOT_KEPT, '')
    return isChinese ? Array.from(clean.replaceAll(/\s/gu, '')) : toPlainWords(clean)
  }
  const counts = new Map<string, number>()
  for (const unit of toUnits(lines)) counts.set(unit, (counts.get(unit) ?? 0) + 1)
  const expected = toUnits(texts)
  let found = 0
  for (const unit of expected) {
    const left = counts.get(unit) ?? 0
    if (left === 0) continue
    counts.set(unit, left - 1)
    found += 1
  }
  return { expected: expected.length, found, nearness: null }
}

/**
 * The candidate that Python's `difflib.get_close_matches(word, candidates, 1, 0)` names: of the highest ratio, and of
 * equal ones that which sorts last. Null without candidates.
 */
export function closestMatch(word: string, candidates: readonly string[]): string | null {
  let best: { candidate: string; ratio: number } | null = null
  for (const candidate of candidates) {
    const ratio = ratioOf(candidate, word)
    const isBetter =
      best === null || ratio > best.ratio || (ratio === best.ratio && candidate > best.candidate)
    if (isBetter) best = { candidate, ratio }
  }
  return best?.candidate ?? null
}

/** Ratcliff and Obershelp: twice the characters in matching blocks over the characters of both. */
function ratioOf(a: string, b: string): number {
  const [from, to] = [Array.from(a), Array.from(b)]
  const total = from.length + to.length
  return total === 0 ? 1 : (2 * matchingCharacters(from, to)) / total
}

function matchingCharacters(a: readonly string[], b: readonly string[]): number {
  let [bestA, bestB, size] = [0, 0, 0]
  for (let i = 0; i < a.length; i += 1) {
    for (let j = 0; j < b.length; j += 1) {
      let length = 0
      while (i + length < a.length && j + length < b.length && a[i + length] === b[j + length]) {
        length += 1
      }
      // The first of equally long ones, as the original has it.
      if (length > size) [bestA, bestB, size] = [i, j, length]
    }
  }
  if (size === 0) return 0
  return (
    matchingCharacters(a.slice(0, bestA), b.slice(0, bestB)) +
    size +
    matchingCharacters(a.slice(bestA + size), b.slice(bestB + size))
  )
}

function lengthOf(text: string): number {
  return Array.from(text).length
}
