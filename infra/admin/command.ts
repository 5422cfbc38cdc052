import { parseArgs } from 'node:util'
import { UsageError } from '../../billing/command-line.ts'
import type { Db } from '../../db/client.ts'
import type { Outcome } from './output.ts'

/** One option or argument: how its text becomes a value. */
export interface Option<T> {
  /** What stands for the value in help; null for one that takes none. */
  readonly hint: string | null
  readonly help: string
  /** What a value must be, after the option's name: `must be ...`. */
  readonly rule: string
  /** Null when the text breaks the rule. */
  readonly read: (text: string) => { readonly value: T } | null
  /** What counts when it is not given; null when it must be. */
  readonly absent: { readonly value: T } | null
}

export type Options = Readonly<Record<string, Option<unknown>>>
type ValuesOf<Spec extends Options> = {
  readonly [Name in keyof Spec]: Spec[Name] extends Option<infer T> ? T : never
}

/** What a command works with. */
export interface Context {
  readonly db: Db
  /** Under which new keys are hashed, and what it comes from. @throws UsageError when there is none */
  readonly findPepper: () => Promise<{ readonly pepper: string; readonly source: string }>
  /** A word for a person beside the result: on the other stream, so that a machine reads the result alone. */
  readonly note: (text: string) => void
}

export interface Command {
  /** `org create`, or one word. */
  readonly name: string
  readonly help: string
  readonly args: Options
  readonly options: Options
  /** Checks what was typed, all of it before anything happens. @throws UsageError with every broken rule */
  readonly read: (typed: readonly string[]) => Invocation
}

/** A command with its values. */
export interface Invocation {
  readonly isJson: boolean
  readonly stateDir: string
  readonly run: (context: Context) => Promise<Outcome>
}

/** The books, or what is in the database, say no. Nothing was changed. */
export class Refusal extends Error {}

const COMMON = {
  json: { type: 'boolean', default: false },
  'state-dir': { type: 'string', default: '.glyphpress' },
} as const

/** A command with typed values; `run` gets them checked. */
export function defineCommand<Args extends Options, Own extends Options>(spec: {
  name: string
  help: string
  args: Args
  options: Own
  run: (context: Context, values: ValuesOf<Args> & ValuesOf<Own>) => Promise<Outcome>
}): Command {
  const { name, help, args, options } = spec
  return {
    name,
    help,
    args,
    options,
    read(typed) {
      const { values, positionals } = parse(spec, typed)
      const common = {
        isJson: values.json === true,
        stateDir: String(values['state-dir']),
      }
      const problems: string[] = []
      const given: Record<string, unknown> = {}
      const names = Object.keys(args)
      if (positionals.length > names.length) {
        problems.push(`"${positionals[names.length]}" is one argument too many`)
      }
      for (const [index, arg] of names.entries()) {
        given[arg] = valueOf(arg.toUpperCase(), args[arg], positionals[index], problems)
      }
      for (const [option, rule] of Object.entries(options)) {
        given[option] = valueOf(`--${option}`, rule, values[option], problems)
      }
      if (problems.length > 0) throw new UsageError(problems.join('\n'))
      // Each value was read by the option of its name.
      const checked = given as ValuesOf<Args> & ValuesOf<Own>
      return { ...common, run: (context) => spec.run(context, checked) }
    },
  }
}

function parse(spec: { name: string; options: Options }, typed: readonly string[]) {
  const own = Object.entries(spec.options).map(
    ([name, { hint }]) => [name, { type: hint === null ? 'boolean' : 'string' }] as const,
  )
  try {
    const { values, positionals } = parseArgs({
      args: [...typed],
      options: { ...Object.fromEntries(own), ...COMMON },
      allowPositionals: true,
    })
    return { values: values as Record<string, string | boolean | undefined>, positionals }
  } catch (cause) {
    // Its first sentence says what is wrong; the rest is about other programs.
    const [problem] = (cause as Error).message.split('. ')
    throw new UsageError(`${problem}.`, { cause })
  }
}

function valueOf(
  name: string,
  option: Option<unknown> | undefined,
  typed: string | boolean | undefined,
  problems: string[],
): unknown {
  if (!option) return undefined
  if (typed === undefined) {
    const full = name.startsWith('--') ? `${name} ${option.hint}` : name
    if (!option.absent) problems.push(`${full} is missing: ${option.help}`)
    return option.absent?.value
  }
  // A flag is there or not.
  const text = String(typed)
  const found = option.read(text)
  if (!found) problems.push(`${name} ${option.rule}, not "${text}"`)
  return found?.value
}
