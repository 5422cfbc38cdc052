/** What stands before the bytes in a `data:` URL. */
const DATA_URL_HEAD = /^data:[\w.+-]+\/[\w.+-]+(;[\w.+-]+=[\w.+-]+)*;base64,/i
/** A multiple of four characters, which decode on their own: the text of all bytes is never held beside them. */
const PIECE_CHARACTERS = 4 * 8_192

/** The bytes of base 64 text or of a `data:` URL that holds such; null when it is neither. */
export function decodeBase64(text: string): Uint8Array | null {
  const head = DATA_URL_HEAD.exec(text.slice(0, 200))?.[0] ?? ''
  const body = text.slice(head.length).replaceAll(/\s+/g, '')
  const bytes = new Uint8Array(Math.ceil((body.length * 3) / 4))
  let length = 0
  try {
    for (let at = 0; at < body.length; at += PIECE_CHARACTERS) {
      const piece = atob(body.slice(at, at + PIECE_CHARACTERS))
      for (let index = 0; index < piece.length; index++) bytes[length++] = piece.charCodeAt(index)
    }
  } catch {
    return null
  }
  return bytes.subarray(0, length)
}
