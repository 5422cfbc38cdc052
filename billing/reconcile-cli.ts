import { parseArgs } from 'node:util'
import { fileURLToPath } from 'node:url'
import { closeDatabase, openDatabase } from '../db/client.ts'
import type { Db } from '../db/client.ts'
import { readTrialBalance } from './balances.ts'
import { UsageError, readDatabaseUrl } from './command-line.ts'
import { formatUsd } from './money.ts'
import { compareBooks, rebuildBalances } from './reconcile/books.ts'
import type { BooksReport } from './reconcile/books.ts'
import { toLine } from './reconcile/difference.ts'
import type { Difference } from './reconcile/difference.ts'
import { compareStripe } from './reconcile/stripe.ts'
import { createStripe } from './stripe/client.ts'

const USAGE = `Usage: npm run reconcile -- [--json] [--grace-minutes 15] [--stripe-days 34] [--rebuild] [--balances]

Computes the books anew from the facts and compares, in one snapshot of a running system: ledger transactions, balances,
chains, charges, refunds, budgets, credit, closed statements, and what should have been sent, settled or told by now.
With STRIPE_SECRET_KEY also what Stripe says of hours, invoices and payments. One line for each difference; amounts in
micro-USD. Exit code 0: none; 1: some; 2: not compared. Reads DATABASE_URL.

  --grace-minutes  how long something may be due before it counts as stuck
  --stripe-days    how far back Stripe is asked; 0: not at all
  --rebuild        makes the ledger's balances anew after telling what was wrong with them
  --balances       prints the trial balance of the ledger instead of comparing
  --json           one JSON document`

/** Sums over a whole ledger; the server ends a statement that takes longer. */
const STATEMENT_TIMEOUT_MS = 1_800_000
/** A meter takes no change of an hour that is older. */
const DEFAULT_STRIPE_DAYS = '34'

interface Options {
  url: string
  graceSeconds: number
  stripeDays: number
  isRebuild: boolean
  isBalances: boolean
  isJson: boolean
}

function readOptions(): Options | null {
  const { values } = parseArgs({
    options: {
      json: { type: 'boolean', default: false },
      'grace-minutes': { type: 'string', default: '15' },
      'stripe-days': { type: 'string', default: DEFAULT_STRIPE_DAYS },
      rebuild: { type: 'boolean', default: false },
      balances: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) return null
  return {
    url: readDatabaseUrl(process.env.DATABASE_URL),
    graceSeconds: toNumber('--grace-minutes', values['grace-minutes']) * 60,
    stripeDays: toNumber('--stripe-days', values['stripe-days']),
    isRebuild: values.rebuild,
    isBalances: values.balances,
    isJson: values.json,
  }
}

function toNumber(name: string, text: string): number {
  if (!/^\d{1,5}$/.test(text)) throw new UsageError(`${name} must be a whole number, not "${text}"`)
  return Number(text)
}

/** @returns the exit code */
async function main(): Promise<number> {
  const options = readOptions()
  if (!options) {
    console.log(USAGE)
    return 0
  }
  const db = openDatabase(options.url, {
    maxConnections: 1,
    applicationName: 'glyphpress-reconcile',
    statementTimeoutMs: STATEMENT_TIMEOUT_MS,
  })
  try {
    return options.isBalances ? await printBalances(db, options) : await reconcile(db, options)
  } finally {
    await closeDatabase(db)
  }
}

async function reconcile(db: Db, options: Options): Promise<number> {
  const { STRIPE_SECRET_KEY: secretKey, STRIPE_API_BASE: apiBase } = process.env
  const mended: Difference[] = []
  if (options.isRebuild) {
    await rebuildBalances(db, (difference) => {
      mended.push(difference)
      if (!options.isJson) console.log(`rebuilt ${toLine(difference)}`)
    })
  }
  const books = await compareBooks(db, options)
  const atStripe =
    secretKey && options.stripeDays > 0
      ? await compareStripe(
          {
            db,
            stripe: createStripe({
              secretKey,
              webhookSecrets: [],
              ...(apiBase ? { apiBase } : {}),
            }),
            now: () => new Date(),
          },
          { days: options.stripeDays },
        )
      : null
  print({ books, atStripe, mended }, options)
  return books.differences.length + (atStripe?.length ?? 0) > 0 ? 1 : 0
}

function print(
  found: { books: BooksReport; atStripe: Difference[] | null; mended: Difference[] },
  { isJson, isRebuild }: Options,
): void {
  const { books, atStripe, mended } = found
  const differences = [...books.differences, ...(atStripe ?? [])]
  if (isJson) {
    const { checks, unlisted } = books
    const isStripeCompared = atStripe !== null
    console.log(
      JSON.stringify(
        { differences, unlisted, rebuilt: isRebuild ? mended : null, checks, isStripeCompared },
        null,
        2,
      ),
    )
    return
  }
  for (const one of differences) console.log(toLine(one))
  for (const [check, count] of Object.entries(books.unlisted))
    console.log(`${check} and ${count} more`)
  if (differences.length > 0) return
  const scope = atStripe === null ? 'Stripe was not asked' : 'and Stripe agrees'
  console.log(`No differences in ${books.checks.length} comparisons of the books; ${scope}.`)
}

async function printBalances(db: Db, { isJson }: Options): Promise<number> {
  const rows = (await readTrialBalance(db)).map((row) => ({
    account: row.accountId,
    posted: formatUsd(row.postedMicros),
    pending: formatUsd(row.pendingMicros),
  }))
  if (isJson) console.log(JSON.stringify(rows, null, 2))
  else if (rows.length === 0) console.log('Nothing was ever posted.')
  else
    for (const row of rows)
      console.log(`${row.account} posted=${row.posted} pending=${row.pending}`)
  return 0
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    process.exitCode = await main()
  } catch (error) {
    console.error(error instanceof UsageError ? `${error.message}\n\n${USAGE}` : toSentence(error))
    process.exitCode = 2
  }
}

function toSentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
