/** Every kind of id and its prefix. */
export const ID_PREFIXES = {
  org: 'org',
  team: 'team',
  key: 'key',
  job: 'job',
  budget: 'bud',
  reservation: 'res',
  usage: 'use',
  ledgerTxn: 'led',
  endpoint: 'whe',
  event: 'evt',
  delivery: 'whd',
  attempt: 'wha',
  request: 'req',
  keyAssignment: 'kas',
  priceVersion: 'price',
  orgPrice: 'opr',
  creditGrant: 'crg',
  correction: 'cor',
  refund: 'ref',
  topup: 'top',
  meterReport: 'mtr',
  statement: 'stm',
  reconRun: 'rec',
} as const

export type IdKind = keyof typeof ID_PREFIXES

/** Crockford's base 32: no letter that looks like a digit, and the order of the letters is that of the values. */
const ALPHABET = '0123456789abcdefghjkmnpqrstvwxyz'
const TIME_CHARACTERS = 10
const RANDOM_CHARACTERS = 16

/**
 * Makes an id: prefix, underscore, 26 characters. Ids sort by their time of making (to the millisecond);
 * 80 random bits keep two of one millisecond apart and an id from being guessed.
 */
export function createId(kind: IdKind): string {
  let time = ''
  let rest = Date.now()
  for (let index = 0; index < TIME_CHARACTERS; index++) {
    time = ALPHABET.charAt(rest % 32) + time
    rest = Math.floor(rest / 32)
  }
  let random = ''
  for (const byte of crypto.getRandomValues(new Uint8Array(RANDOM_CHARACTERS))) {
    random += ALPHABET.charAt(byte % 32)
  }
  return `${ID_PREFIXES[kind]}_${time}${random}`
}

/** Whether a text has the form of an id of this kind; says nothing of its existence. */
export function isId(kind: IdKind, text: string): boolean {
  return new RegExp(`^${ID_PREFIXES[kind]}_[0-9a-hjkmnp-tv-z]{26}$`).test(text)
}

/** When an id was made, by the clock of its maker; `id` has the form of one. */
export function timeOfId(id: string): Date {
  const start = id.indexOf('_') + 1
  let time = 0
  for (let at = start; at < start + TIME_CHARACTERS; at++) {
    time = time * 32 + ALPHABET.indexOf(id.charAt(at))
  }
  return new Date(time)
}
