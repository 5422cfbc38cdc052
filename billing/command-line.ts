import { parseUsd } from './money.ts'
import type { Micros } from './money.ts'

/** What is wrong with a command as it was typed, for a person to read. */
export class UsageError extends Error {}

/** A day is its first instant in UTC; an instant without a zone would be another one on each machine. */
const INSTANT = /^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,3})?)?(Z|[+-]\d{2}:\d{2}))?$/
/** What a text that names an instant must be, after the name of its option. */
export const INSTANT_RULE =
  'must be a day (UTC) or an instant with its zone, such as 2026-11-01 or 2026-11-01T09:00:00Z'

/** The instant that a text names: a day is its start in UTC. Null when it names none. */
export function parseInstant(text: string): Date | null {
  if (!INSTANT.test(text)) return null
  const date = new Date(text)
  if (Number.isNaN(date.getTime())) return null
  // The 30th of February would silently be a day of March.
  const [day = ''] = text.split('T')
  return new Date(`${day}T00:00:00Z`).toISOString().startsWith(day) ? date : null
}

/** @throws UsageError with the option and the rule */
export function readInstant(name: string, text = ''): Date {
  const date = parseInstant(text)
  if (!date) throw new UsageError(`${name} ${INSTANT_RULE}`)
  return date
}

/** US dollars that are not negative; null for anything else. */
export function parseAmount(text: string): Micros | null {
  const amount = parseUsd(text)
  return amount === null || amount < 0n ? null : amount
}

/** The database that the surroundings name. @throws UsageError without one */
export function readDatabaseUrl(url: string | undefined): string {
  if (!url)
    throw new UsageError('DATABASE_URL is not set: postgres://user:password@host:5432/database')
  return url
}
