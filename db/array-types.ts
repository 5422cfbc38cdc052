interface ArrayType {
  to: number
  from: number[]
  serialize: (list: unknown) => string
  parse: (text: string) => unknown[]
}

/** The arrays that our statements send and read, for the driver: it knows none by itself. One dimension. */
export const ARRAY_TYPES = {
  textArray: arrayType(1009, String),
  intArray: arrayType(1007, Number),
  bigintArray: arrayType(1016, BigInt),
}

function arrayType(oid: number, toElement: (text: string) => unknown): ArrayType {
  return { to: oid, from: [oid], serialize: toLiteral, parse: (text) => ofLiteral(text, toElement) }
}

function toLiteral(list: unknown): string {
  if (!Array.isArray(list)) return String(list)
  const elements = list.map((element: string | number | bigint | null) =>
    element === null ? 'NULL' : `"${String(element).replaceAll(/["\\]/g, '\\$&')}"`,
  )
  return `{${elements.join(',')}}`
}

/** Quoted with escapes, or bare up to the next comma. */
const ELEMENT = /"((?:[^"\\]|\\.)*)"|([^,{}]+)/gs

function ofLiteral(text: string, toElement: (text: string) => unknown): unknown[] {
  return Array.from(text.matchAll(ELEMENT), ([, quoted, bare = '']) => {
    if (quoted !== undefined) return toElement(quoted.replaceAll(/\\(.)/gs, '$1'))
    return bare === 'NULL' ? null : toElement(bare)
  })
}
