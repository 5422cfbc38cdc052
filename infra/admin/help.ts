import type { Command, Option } from './command.ts'

const HEAD = `Usage: npm run admin -- <noun> <verb> [options]

Organisations, teams, keys, limits, prices, contracts, credit and refunds.`

const TAIL = `  --json           for machines; use npm run --silent, which leaves npm's own lines out
  --state-dir DIR  of npm start, for its database and pepper (.glyphpress)
  --help           after a noun: its verbs and their options

Works on DATABASE_URL and KEY_PEPPER, else on what npm start runs on this machine. Ends with 2 where the command is
wrong, with 1 where the books refuse it; then nothing was changed.`

/** All verbs in a line each. */
export function overview(commands: readonly Command[]): string {
  const lines = commands.map((command) => {
    const [first] = command.help.split(/[.:;,] |[.\n]/)
    return `  ${signatureOf(command).padEnd(16)} ${first}`
  })
  return [HEAD, '', ...lines, '', TAIL].join('\n')
}

/** Some verbs with their options. */
export function helpFor(commands: readonly Command[]): string {
  return commands.map(describe).join('\n\n')
}

function describe(command: Command): string {
  const options = [
    ...Object.entries(command.args).map(([name, option]) => [name.toUpperCase(), option] as const),
    ...Object.entries(command.options).map(
      ([name, option]) => [`--${name}${valueHint(option)}`, option] as const,
    ),
  ]
  const width = Math.max(0, ...options.map(([name]) => name.length))
  return [
    `npm run admin -- ${signatureOf(command)}`,
    ...command.help.split('\n').map((line) => `  ${line}`),
    ...options.map(([name, option]) => {
      const need = option.absent === null ? '' : ' [optional]'
      return `    ${name.padEnd(width)}  ${option.help}${need}`
    }),
  ].join('\n')
}

function signatureOf({ name, args }: Command): string {
  return [name, ...Object.keys(args).map((arg) => arg.toUpperCase())].join(' ')
}

function valueHint({ hint }: Option<unknown>): string {
  return hint === null ? '' : ` ${hint}`
}
