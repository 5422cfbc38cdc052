/**
 * How the texts of a prompt are drawn into words and compared with those that were read from a picture. One rule for
 * both sides:
 *
 * - Unicode form NFKC, and case does not count: `SALE` is `Sale`, and a full-width letter is a plain one. Accents count:
 *   `ano` is not `año`.
 * - Whitespace and line breaks part words and do not count otherwise.
 * - Han, Hiragana and Katakana have no spaces: each of their characters is a word.
 * - Punctuation does not count and parts words, except what changes a meaning: an apostrophe between letters (all
 *   forms are one), a point, comma or colon between digits, and `% & @ # + °` and signs of currency.
 */
export function toWords(text: string): string[] {
  return (
    text
      .normalize('NFKC')
      .toLowerCase()
      .replaceAll(/[\u2018\u2019\u02bc`\u00b4]/gu, "'")
      .match(WORDS) ?? []
  )
}

const LETTERS = '[\\p{L}\\p{M}\\p{N}\\p{Sc}%&@#+°]'
const OWN_WORD = '[\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}々ー]'
const INSIDE = "(?:(?<=\\p{L})'(?=\\p{L})|(?<=\\p{N})[.,:](?=\\p{N}))"
const WORDS = new RegExp(`${OWN_WORD}|(?:(?!${OWN_WORD})${LETTERS}|${INSIDE})+`, 'gu')

/**
 * The styles in which the model's glyph encoder knows quotes. A plain single quote may also be an apostrophe: here one
 * that stands between letters is, so that `it's a 'SALE'` asks for `SALE` alone.
 */
const QUOTES = [
  /(?<![\p{L}\p{N}])'((?:[^']|(?<=[\p{L}\p{N}])'(?=[\p{L}\p{N}]))*)'(?![\p{L}\p{N}])/gu,
  /\u201c([^\u201c\u201d]*)\u201d/gu,
  /"([^"]*)"/gu,
  /\u300c([^\u300c\u300d]*)\u300d/gu,
]

/** The texts that a prompt asks to be drawn, in the order in which they stand there; those without a word are left out. */
export function quotedTexts(prompt: string): string[] {
  return QUOTES.flatMap((style) => [...prompt.matchAll(style)])
    .toSorted((a, b) => a.index - b.index)
    .map((match) => (match[1] ?? '').trim())
    .filter((text) => toWords(text).length > 0)
}
