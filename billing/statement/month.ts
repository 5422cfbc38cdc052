/** A calendar month in UTC: `start` is in it, `end` is not. */
export interface Month {
  /** `2026-11` */
  readonly month: string
  readonly start: Date
  readonly end: Date
}

/** The month that a text such as `2026-11` names; null when it names none. */
export function parseMonth(text: string): Month | null {
  const match = /^(20\d\d)-(0[1-9]|1[0-2])$/.exec(text)
  if (!match) return null
  const [year, index] = [Number(match[1]), Number(match[2]) - 1]
  return {
    month: text,
    start: new Date(Date.UTC(year, index)),
    end: new Date(Date.UTC(year, index + 1)),
  }
}

/** The month that an instant lies in. */
export function monthOf(instant: Date): Month {
  const start = new Date(Date.UTC(instant.getUTCFullYear(), instant.getUTCMonth()))
  const end = new Date(Date.UTC(instant.getUTCFullYear(), instant.getUTCMonth() + 1))
  return { month: start.toISOString().slice(0, 7), start, end }
}

/** An instant as statements and exports write it, to the second: `2026-11-01T00:00:00Z`. */
export function toInstant(date: Date): string {
  return `${date.toISOString().slice(0, 19)}Z`
}
