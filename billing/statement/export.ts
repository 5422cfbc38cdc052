import type { Db } from '../../db/client.ts'
import { readStatement } from './close.ts'
import type { StatementFile } from './close.ts'
import { toStatementCsv } from './csv.ts'
import type { StatementDocument } from './document.ts'
import { createFocusCsv } from './focus.ts'
import type { FocusOptions } from './focus.ts'
import { toStatementHtml } from './html.ts'
import type { StatementScope } from './rows.ts'

export type StatementFormat = 'json' | 'csv' | 'html' | 'focus'

export interface StatementExport {
  /** The statement behind it, whatever the form. */
  readonly file: StatementFile
  /** The form that was asked for, in pieces. */
  readonly body: AsyncIterable<string>
}

/**
 * A statement in one of its forms. JSON is the form that is closed and hashed; CSV and HTML are made from its bytes and
 * say nothing else, and FOCUS gives the lines that it sums.
 *
 * @returns null when there is no such org or no such team in it
 */
export async function exportStatement(
  db: Db,
  scope: StatementScope,
  options: { format: StatementFormat; focus: FocusOptions },
): Promise<StatementExport | null> {
  const file = await readStatement(db, scope)
  if (!file) return null
  const document = JSON.parse(file.json) as StatementDocument
  switch (options.format) {
    case 'json':
      return { file, body: whole(file.json) }
    case 'csv':
      return { file, body: whole(toStatementCsv(document)) }
    case 'html':
      return { file, body: whole(toStatementHtml(document, file)) }
    case 'focus':
      return { file, body: createFocusCsv(db, scope, document, options.focus) }
  }
}

async function* whole(text: string): AsyncGenerator<string> {
  yield await Promise.resolve(text)
}
