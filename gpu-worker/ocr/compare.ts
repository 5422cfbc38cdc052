import { toWords } from '../../db/text-words.ts'

/** How well texts were read, with the words that were not. */
export interface Comparison {
  /** Share of the expected words that were read, 0 to 1. */
  readonly wordAccuracy: number
  /** Mean nearness of each expected word to the nearest one that was read, 0 to 1. */
  readonly ned: number
  /** Words that were expected in all. */
  readonly wordCount: number
  readonly texts: { expected: string; matched: boolean; missing: string[] }[]
}

/**
 * Compares what a picture should show with the lines that were read in it. Words are those of `toWords`, on both sides.
 *
 * - Order: texts may stand anywhere, and so may the words of a text; lines break anywhere.
 * - Repeats: a word that is expected twice has to be read twice.
 * - More than was expected costs nothing.
 * - Where words are parted counts at the ends of a text alone: a text is also read when neighbouring words of the
 *   reading, run together, are its own run together (`GRAND OPENING` as `GRANDOPENING`, `SALE` as `SA LE`). Letters
 *   inside a longer word are never a match: `art` is not read in `party`.
 *
 * Word accuracy = words read / words expected. NED as CVTG-2K has it: for each expected word 1 - Levenshtein distance /
 * (longer length + 1e-5) to the nearest word read, the mean over all words; a word that was matched counts 1.
 *
 * @param expected with at least one word in all
 */
export function compareTexts(expected: readonly string[], lines: readonly string[]): Comparison {
  const pool = new WordPool(lines.flatMap(toWords))
  const open = expected.map((text) => ({
    expected: text,
    words: toWords(text),
    missing: [] as string[],
  }))
  // Whole texts first, long ones before short ones, so that no text takes a part of another's.
  const byLength = open.toSorted((a, b) => b.words.length - a.words.length)
  const rest = byLength.filter(({ words }) => words.length > 0 && !pool.take(words.join('')))
  for (const entry of rest) entry.missing = entry.words.filter((word) => !pool.take(word))
  const count = open.reduce((sum, { words }) => sum + words.length, 0)
  const missing = open.flatMap((entry) => entry.missing)
  const nearness = missing.reduce((sum, word) => sum + nearnessOf(word, pool.words), 0)
  return {
    wordCount: count,
    wordAccuracy: count === 0 ? 0 : (count - missing.length) / count,
    ned: count === 0 ? 0 : (count - missing.length + nearness) / count,
    texts: open.map(({ expected: text, missing: lacking }) => ({
      expected: text,
      matched: lacking.length === 0,
      missing: lacking,
    })),
  }
}

/** The words that were read; each can be taken once. */
class WordPool {
  readonly words: readonly string[]
  readonly #isTaken: boolean[]

  constructor(words: readonly string[]) {
    this.words = words
    this.#isTaken = words.map(() => false)
  }

  /** Takes the first run of neighbouring free words that is `letters` when run together. */
  take(letters: string): boolean {
    for (let from = 0; from < this.words.length; from += 1) {
      let run = ''
      for (let to = from; to < this.words.length && !this.#isTaken[to]; to += 1) {
        run += this.words[to] ?? ''
        if (!letters.startsWith(run)) break
        if (run.length < letters.length) continue
        this.#isTaken.fill(true, from, to + 1)
        return true
      }
    }
    return false
  }
}

/** 1 for the same word, towards 0 for ever less alike ones; 0 where nothing was read. */
export function nearnessOf(word: string, candidates: readonly string[]): number {
  let best = 0
  for (const candidate of candidates) {
    const longer = Math.max(Array.from(word).length, Array.from(candidate).length)
    best = Math.max(best, 1 - levenshtein(word, candidate) / (longer + 1e-5))
  }
  return best
}

/** Insertions, deletions and substitutions of characters that make one text of the other. */
export function levenshtein(a: string, b: string): number {
  const [from, to] = [Array.from(a), Array.from(b)]
  let row = Array.from({ length: to.length + 1 }, (_, index) => index)
  for (const [i, letter] of from.entries()) {
    const next = [i + 1]
    for (const [j, other] of to.entries()) {
      const change = (row[j] ?? 0) + (letter === other ? 0 : 1)
      next.push(Math.min(change, (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1))
    }
    row = next
  }
  return row.at(-1) ?? 0
}
