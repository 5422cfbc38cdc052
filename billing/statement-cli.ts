import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { rename, rm } from 'node:fs/promises'
import { finished } from 'node:stream/promises'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { closeDatabase, openDatabase } from '../db/client.ts'
import type { Db } from '../db/client.ts'
import { UsageError, readDatabaseUrl } from './command-line.ts'
import { closeStatement } from './statement/close.ts'
import type { CloseResult } from './statement/close.ts'
import { exportStatement } from './statement/export.ts'
import type { StatementFormat } from './statement/export.ts'
import type { FocusVersion } from './statement/focus-columns.ts'
import { parseMonth } from './statement/month.ts'
import type { StatementScope } from './statement/rows.ts'

const USAGE = `Usage: npm run statement -- --org ID --month 2026-11 [--team ID] [--format json|csv|html|focus]
                            [--focus-version 1.4|1.2] [--provider NAME] [--close] [--out FILE]

Prints the statement of an organisation, or of one team of it, for a calendar month (UTC). Reads DATABASE_URL.

  --close     closes the month first: from then on its bytes never change
  --provider  who is named as provider in FOCUS
  --out       writes the file whole or not at all; else it goes to standard output`
/** Sums over a month of a large org take longer than a request may. */
const STATEMENT_TIMEOUT_MS = 300_000

function readOptions() {
  try {
    const { values } = parseArgs({
      options: {
        org: { type: 'string' },
        team: { type: 'string' },
        month: { type: 'string' },
        format: { type: 'string', default: 'json' },
        'focus-version': { type: 'string', default: '1.4' },
        provider: { type: 'string' },
        close: { type: 'boolean', default: false },
        out: { type: 'string' },
        help: { type: 'boolean', default: false },
      },
    })
    return values
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause)
    throw new UsageError(`${text}\n\n${USAGE}`, { cause })
  }
}

async function main(): Promise<void> {
  const values = readOptions()
  if (values.help) {
    console.log(USAGE)
    return
  }
  const month = parseMonth(values.month ?? '')
  const { org, format, out, provider } = values
  const version = values['focus-version']
  if (!org || !month || !isFormat(format) || !isVersion(version)) throw new UsageError(USAGE)
  const url = readDatabaseUrl(process.env.DATABASE_URL)
  const db = openDatabase(url, {
    maxConnections: 1,
    applicationName: 'glyphpress-statement',
    statementTimeoutMs: STATEMENT_TIMEOUT_MS,
  })
  try {
    const scope = { orgId: org, teamId: values.team ?? null, month }
    if (values.close) await close(db, scope)
    const pieces = await exportStatement(db, scope, {
      format,
      focus: { version, ...(provider === undefined ? {} : { provider }) },
    })
    if (!pieces) throw new UsageError('There is no such organisation, or no such team in it.')
    await write(pieces.body, out)
  } finally {
    await closeDatabase(db)
  }
}

async function close(db: Db, scope: StatementScope): Promise<void> {
  const result = await closeStatement(db, scope)
  if (!result.ok) throw new UsageError(whyNot(result))
  const { sha256, closedAt } = result.file
  const when = closedAt?.toISOString() ?? ''
  console.error(`${result.repeated ? 'Was closed' : 'Closed'} ${when}, sha256 ${sha256}`)
}

function whyNot(result: Extract<CloseResult, { ok: false }>): string {
  switch (result.reason) {
    case 'not_found':
      return 'There is no such organisation, or no such team in it.'
    case 'not_over':
      return 'The month is not over, or ended less than a minute ago.'
    case 'still_settling':
      return 'A transaction from before the end of the month is still open; try again in a minute.'
    case 'books_differ':
      return `Nothing was closed: the lines of the month come to ${result.usageMicros} and the ledger to ${result.ledgerMicros} micro-USD.`
  }
}

/** To a file it is written beside it first, so that the name never holds half a statement. */
async function write(pieces: AsyncIterable<string>, out: string | undefined): Promise<void> {
  const part = out === undefined ? null : `${out}.part`
  const target = part === null ? process.stdout : createWriteStream(part)
  try {
    for await (const piece of pieces) if (!target.write(piece)) await once(target, 'drain')
    if (part === null || out === undefined) return
    target.end()
    await finished(target)
    await rename(part, out)
  } catch (error) {
    if (part !== null) await rm(part, { force: true })
    throw error
  }
}

function isFormat(text: string): text is StatementFormat {
  return ['json', 'csv', 'html', 'focus'].includes(text)
}

function isVersion(text: string): text is FocusVersion {
  return text === '1.4' || text === '1.2'
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    await main()
  } catch (error) {
    console.error(error instanceof UsageError ? error.message : error)
    process.exitCode = 1
  }
}
