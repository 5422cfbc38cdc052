import { INSTANT_RULE, parseAmount, parseInstant } from '../../billing/command-line.ts'
import type { Option } from './command.ts'

/** Longer names break tables and invoices. */
const MAX_TEXT = 200
/** int4 of the database. */
const MAX_INTEGER = 2_147_483_647
/** A key that is to end after more than a century is a typing error. */
const MAX_DURATION_MS = 36_525 * 86_400_000
const UNITS_MS: Record<string, number> = { m: 60_000, h: 3_600_000, d: 86_400_000 }

/** A piece of text; blanks around it do not count. */
export function text(hint: string, help: string): Option<string> {
  return required(hint, help, `must have 1 to ${MAX_TEXT} characters`, (typed) => {
    const trimmed = typed.trim()
    return trimmed.length > 0 && trimmed.length <= MAX_TEXT ? trimmed : null
  })
}

export function oneOf<T extends string>(choices: readonly T[], help: string): Option<T> {
  const rule = `must be ${choices.length > 1 ? 'one of ' : ''}${choices.join(', ')}`
  return required(choices.join('|'), help, rule, (typed) => {
    return choices.find((choice) => choice === typed) ?? null
  })
}

/** Several of a choice, with commas between them, each once. */
export function someOf<T extends string>(choices: readonly T[], help: string): Option<T[]> {
  const rule = `must be some of ${choices.join(', ')}, with commas between them`
  return required('LIST', help, rule, (typed) => {
    const parts = typed.split(',').map((part) => part.trim())
    const found = choices.filter((choice) => parts.includes(choice))
    return found.length === parts.length ? found : null
  })
}

/** An amount above nothing. */
export function usd(help: string): Option<bigint> {
  return required('USD', help, 'must be US dollars above 0, such as 25 or 0.015', (typed) => {
    const amount = parseAmount(typed)
    return amount === 0n ? null : amount
  })
}

/** An amount or nothing at all. */
export function usdOrZero(help: string): Option<bigint> {
  return required('USD', help, 'must be US dollars, such as 25, 0.015 or 0', parseAmount)
}

export function integer(help: string, least: number, most = MAX_INTEGER): Option<number> {
  const rule = `must be a whole number from ${least} to ${most}`
  return required('N', help, rule, (typed) => {
    const value = /^\d{1,10}$/.test(typed) ? Number(typed) : -1
    return value >= least && value <= most ? value : null
  })
}

/** Places of images in a job. */
export function indexes(help: string): Option<number[]> {
  return required('LIST', help, 'must be places of images, such as 0,2', (typed) => {
    if (!/^\d(,\d)*$/.test(typed)) return null
    return [...new Set(typed.split(',').map(Number))].toSorted((a, b) => a - b)
  })
}

export function instant(help: string): Option<Date> {
  return required('DATE', help, INSTANT_RULE, parseInstant)
}

/** A span of time, in milliseconds. */
export function duration(help: string): Option<number> {
  const rule = 'must be minutes, hours or days, such as 30m, 12h or 90d'
  return required('SPAN', help, rule, (typed) => {
    const [, count = '', unit = ''] = /^(\d{1,8})([mhd])$/.exec(typed) ?? []
    const lengthMs = Number(count) * (UNITS_MS[unit] ?? 0)
    return lengthMs > 0 && lengthMs <= MAX_DURATION_MS ? lengthMs : null
  })
}

/** A share in basis points: `12.5%` is 1250. */
export function percent(help: string): Option<number> {
  const rule = 'must be a percentage from 0% to 100%, such as 10% or 12.5%'
  return required('PERCENT', help, rule, toBasisPoints)
}

/** Several shares above nothing, in basis points. */
export function percents(help: string): Option<number[]> {
  const rule = 'must be percentages above 0% and up to 100%, such as 50,80,100'
  return required('LIST', help, rule, (typed) => {
    const shares = typed.split(',').map((part) => toBasisPoints(part.trim()))
    const found = shares.flatMap((share) => (share ? [share] : []))
    return found.length === shares.length ? found : null
  })
}

function toBasisPoints(typed: string): number | null {
  const [, whole, fraction = ''] = /^(\d{1,3})(?:\.(\d{1,2}))?%?$/.exec(typed) ?? []
  if (whole === undefined) return null
  const basisPoints = Number(whole) * 100 + Number(fraction.padEnd(2, '0'))
  return basisPoints <= 10_000 ? basisPoints : null
}

/** Names and values, such as `project=spring,client=acme`. */
export function pairs(help: string): Option<Record<string, string>> {
  const rule = 'must be names and values, such as project=spring,client=acme'
  return required('LIST', help, rule, (typed) => {
    const found = typed.split(',').map((part) => /^([\w.-]{1,64})=([^=]{1,200})$/.exec(part.trim()))
    const entries = found.flatMap((match) => (match ? [[match[1] ?? '', match[2] ?? '']] : []))
    return entries.length === found.length
      ? (Object.fromEntries(entries) as Record<string, string>)
      : null
  })
}

export function flag(help: string): Option<boolean> {
  return {
    hint: null,
    help,
    rule: 'takes no value',
    read: (typed) => ({ value: typed === 'true' }),
    absent: { value: false },
  }
}

/** The same, and it may be left out. */
export function maybe<T>(option: Option<T>): Option<T | undefined> {
  return { ...option, absent: { value: undefined } }
}

/** The same, with what counts when it is left out. */
export function otherwise<T>(option: Option<T>, value: T): Option<T> {
  return { ...option, absent: { value } }
}

/** The same, or the word `none`. */
export function orNone<T>(option: Option<T>): Option<T | null> {
  return {
    ...option,
    hint: `${option.hint}|none`,
    rule: `${option.rule}, or none`,
    read: (typed) => (typed === 'none' ? { value: null } : option.read(typed)),
  }
}

/** The given ones: what is undefined is left out. */
export function given<T extends object>(
  values: T,
): { [Name in keyof T]?: Exclude<T[Name], undefined> } {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined)
  return Object.fromEntries(entries) as { [Name in keyof T]?: Exclude<T[Name], undefined> }
}

export function required<T>(
  hint: string,
  help: string,
  rule: string,
  parse: (text: string) => T | null,
): Option<T> {
  return {
    hint,
    help,
    rule,
    absent: null,
    read(typed) {
      const value = parse(typed)
      return value === null ? null : { value }
    },
  }
}
