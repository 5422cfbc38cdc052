/** Quoted spans in the order in which the reference collects them: pattern by pattern, not by position. */
const QUOTES = [
  /'([^']*)'/gu,
  /\u201c([^\u201c\u201d]*)\u201d/gu,
  /"([^"]*)"/gu,
  /\u300c([^\u300c\u300d]*)\u300d/gu,
]

/** Ids per text including the end, from the reference pipeline. */
const MAX_IDS = 2048
const PAD_ID = 0
const END_ID = 1
const BYTE_OFFSET = 3

/**
 * The texts that a prompt asks to be drawn: what stands between ' ', " ", “ ” or 「 」.
 *
 * Apostrophes count as quotes, as they do for the model: `it's a dog's` yields `s a dog`. Without any quote the
 * answer is one empty text.
 */
export function extractGlyphTexts(prompt: string): string[] {
  const texts = QUOTES.flatMap((pattern) => [...prompt.matchAll(pattern)].map((m) => m[1] ?? ''))
  return texts.length > 0 ? texts : ['']
}

/**
 * Byte-level ids of each text: bytes plus 3, then the end id, cut to 2048 with the end kept.
 *
 * An even number of texts gets one attended padding id in front of every text: the reference takes the parity
 * from the list where it meant the token length, and the model was trained that way.
 */
export function toGlyphIds(texts: readonly string[]): number[][] {
  const encoder = new TextEncoder()
  const front = texts.length % 2 === 0 ? [PAD_ID] : []
  return texts.map((text) => {
    const bytes = Array.from(encoder.encode(text), (byte) => byte + BYTE_OFFSET)
    return [...front, ...bytes.slice(0, MAX_IDS - 1), END_ID]
  })
}
