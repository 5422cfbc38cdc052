import type { Amounts } from './amounts.ts'
import { skuName } from './csv.ts'
import type { Part, StatementDocument, WireAccount } from './document.ts'
import { STATEMENT_CSS } from './html-style.ts'
import { toInstant } from './month.ts'

/** What proves the figures, printed below them. */
export interface HtmlProof {
  readonly sha256: string
  /** Null: the page says that it is a preview. */
  readonly closedAt: Date | null
}

/** A statement as one page that needs nothing else: to read, to print, to keep. */
export function toStatementHtml(document: StatementDocument, proof: HtmlProof): string {
  const page = toPage(document)
  const owner = document.team ? `${document.team.name}, ${document.org.name}` : document.org.name
  const keyHeads = document.team ? ['Key', 'Tags'] : ['Key', 'Tags', 'Team']
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(`Statement ${document.month}: ${owner}`)}</title>
<style>
${STATEMENT_CSS}</style>
</head>
<body>
${header(document, proof)}
<main>
${[
  summary(page),
  document.team
    ? ''
    : breakdown(page, 'Teams', ['Team', 'Cost centre'], document.by_team, page.team),
  breakdown(page, 'API keys', keyHeads, document.by_key, page.key),
  breakdown(page, 'Products', ['Product'], document.by_sku, page.sku),
  breakdown(page, 'Days (UTC)', ['Day'], document.by_day, ({ day }) => [day]),
  corrections(page),
  account(page),
  holds(page),
]
  .filter(Boolean)
  .join('\n')}
</main>
${footer(document, proof)}
</body>
</html>
`
}

/** Makes a text safe between tags and in quoted attributes. */
export function escapeHtml(text: string): string {
  const entities: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }
  return text.replaceAll(/[&<>"]/g, (character) => entities[character] ?? character)
}

/** A document with what its ids are called, and money in as many digits as its finest amount needs. */
function toPage(document: StatementDocument) {
  const teams = new Map(document.teams.map((team) => [team.id, team]))
  const keys = new Map(document.keys.map((key) => [key.id, key]))
  const skus = new Map(document.skus.map((sku) => [sku.id, sku]))
  const amounts = JSON.stringify(document).match(/"-?\d+\.\d{6}"/g) ?? []
  const needed = amounts.map((amount) => amount.replace(/0*"$/, '').split('.')[1]?.length ?? 0)
  const digits = needed.reduce((most, count) => Math.max(most, count), 2)
  const keyName = (id: string) => {
    const key = keys.get(id)
    return key ? `${key.name} (...${key.last4})` : id
  }
  return {
    document,
    keyName,
    money: (amount: string) =>
      amount.slice(0, amount.length - 6 + digits).replaceAll(/\B(?=(\d{3})+\.)/g, ','),
    team: ({ team_id: id }: { team_id: string }) => {
      const team = teams.get(id)
      return team ? [team.name, team.cost_centre] : [id, '']
    },
    key: ({ team_id, key_id }: { team_id: string; key_id: string }) => {
      const tags = Object.entries(keys.get(key_id)?.tags ?? {})
        .map(([name, value]) => `${name}: ${value}`)
        .join(', ')
      const team = teams.get(team_id)?.name ?? team_id
      return [keyName(key_id), tags, ...(document.team ? [] : [team])]
    },
    sku: ({ sku_id: id }: { sku_id: string }) => {
      const sku = skus.get(id)
      return [sku ? skuName(sku) : id]
    },
  }
}

type Page = ReturnType<typeof toPage>

const SETTLEMENT: Record<string, { term: string; due: string }> = {
  prepaid: { term: 'Paid ahead: charges are taken from credit', due: 'Taken from credit' },
  postpaid: { term: 'Invoiced after the month', due: 'Due' },
  internal: { term: 'Charged back inside the company', due: 'Charged back' },
}

function header({ org, team, ...document }: StatementDocument, { closedAt }: HtmlProof): string {
  const lastDay = toInstant(new Date(Date.parse(document.period_end) - 1)).slice(0, 10)
  const state = closedAt
    ? '<span class="state">Closed</span>'
    : '<span class="state preview">Preview, not closed</span>'
  const facts: [string, string][] = [
    ['Organisation', `${org.name} (${org.id})`],
    ...(team
      ? ([
          ['Team', `${team.name} (${team.id})`],
          ['Cost centre', team.cost_centre],
        ] satisfies [string, string][])
      : []),
    ['Period', `${document.period_start.slice(0, 10)} to ${lastDay}, UTC`],
    ['Settlement', SETTLEMENT[org.settlement_mode]?.term ?? org.settlement_mode],
  ]
  const terms = facts.map(([name, value]) => `<dt>${name}</dt><dd>${escapeHtml(value)}</dd>`)
  return `<header>
<p class="brand">Glyphpress</p>
<h1>Statement for ${monthName(document.month)} ${state}</h1>
<dl>${terms.join('')}</dl>
</header>`
}

const MONTHS =
  'January February March April May June July August September October November December'.split(' ')

function monthName(month: string): string {
  return `${MONTHS[Number(month.slice(5)) - 1] ?? ''} ${month.slice(0, 4)}`
}

const AMOUNT_HEADS = ['Images', 'List', 'Discount', 'Net', 'Credit', 'Due']

function summary({ document, money }: Page): string {
  const { org, usage, corrections: corrected, earlier_periods: earlier, total } = document
  const label = SETTLEMENT[org.settlement_mode]?.due ?? 'Due'
  return `<section>
<h2>Summary</h2>
<p class="due">${label} <strong>${money(total.due)} USD</strong> for ${total.images} images</p>
${table(
  ['', ...AMOUNT_HEADS],
  [
    row(['Usage of the month'], figures(money, usage)),
    row(['Corrections'], figures(money, corrected)),
    row(['of which for earlier months'], figures(money, earlier), 'part'),
  ],
  row(['Total'], figures(money, total)),
)}
</section>`
}

function breakdown<T extends Part>(
  { money }: Page,
  title: string,
  heads: string[],
  parts: T[],
  cellsOf: (part: T) => string[],
): string {
  if (parts.length === 0) return ''
  const rows = parts.map((part) => row(cellsOf(part), figures(money, part.total)))
  return section(title, '', table([...heads, ...AMOUNT_HEADS], rows))
}

const REASONS = {
  refund: 'Refund',
  moved_out: 'Moved to another team',
  moved_in: 'Moved from another team',
}

function corrections({ document, money, keyName, team }: Page): string {
  if (document.correction_groups.length === 0) return ''
  const rows = document.correction_groups.map((group) =>
    row(
      [REASONS[group.reason], group.of_month, team(group)[0] ?? '', keyName(group.key_id)],
      figures(money, group),
    ),
  )
  const heads = ['Reason', 'Usage of', 'Team', 'Key', ...AMOUNT_HEADS]
  return section('Corrections in detail', '', table(heads, rows))
}

const ACCOUNTS: Record<WireAccount['type'], [title: string, note: string]> = {
  prepaid: ['Credit', 'What was paid or granted ahead, and what is left of it.'],
  receivable: ['Account', 'What is owed, as posted in the ledger.'],
  team_cost: ['Chargeback', 'Cost posted to platform recovery in the ledger.'],
}

/** Kinds of ledger transactions as a reader knows them; another one appears under its own name. */
const MOVEMENTS: Record<string, string> = {
  charge: 'Charges',
  credit: 'Credit added',
  refund: 'Refunds',
  move: 'Moved between teams',
}

function account({ document: { account: ledger }, money }: Page): string {
  if (!ledger) return ''
  const [title, note] = ACCOUNTS[ledger.type]
  const rows = [
    row(['Opening balance'], [money(ledger.opening)]),
    ...ledger.movements.map(({ kind, amount }) => row([MOVEMENTS[kind] ?? kind], [money(amount)])),
  ]
  const foot = row(['Closing balance'], [money(ledger.closing)])
  return section(title, note, table(['', 'Amount'], rows, foot))
}

function holds({ document: { open_holds: open }, money, keyName }: Page): string {
  if (open.count === 0) return ''
  const more = open.count - open.listed.length
  const note = [
    `${open.count} jobs had not ended; ${money(open.amount)} USD were held for them.`,
    'What they cost is charged in the month in which they end.',
    ...(more > 0 ? [`${more} of them are not listed.`] : []),
  ].join(' ')
  const rows = open.listed.map((hold) =>
    row([hold.job_id, keyName(hold.key_id), hold.held_since], [money(hold.amount)]),
  )
  const title = 'Holds open at the end of the period'
  return section(title, note, table(['Job', 'Key', 'Held since', 'Amount'], rows))
}

function footer({ currency }: StatementDocument, { sha256, closedAt }: HtmlProof): string {
  const state = closedAt
    ? `Closed on ${toInstant(closedAt)}; what changed later is a correction in a later month.`
    : 'A preview: these figures can still change.'
  return `<footer>
<p>Amounts in ${currency}, exact to a millionth. ${state}</p>
<p>SHA-256 of the JSON form: <code>${sha256}</code></p>
</footer>`
}

function section(title: string, note: string, content: string): string {
  const lead = note ? `<p class="note">${escapeHtml(note)}</p>\n` : ''
  return `<section>\n<h2>${title}</h2>\n${lead}${content}\n</section>`
}

function table(heads: string[], rows: string[], foot = ''): string {
  const cells = heads.map((head) => {
    const isFigure = AMOUNT_HEADS.includes(head) || head === 'Amount'
    return `<th scope="col"${isFigure ? ' class="n"' : ''}>${head}</th>`
  })
  const end = foot ? `\n<tfoot>\n${foot}\n</tfoot>` : ''
  return `<table>\n<thead><tr>${cells.join('')}</tr></thead>\n<tbody>\n${rows.join('\n')}\n</tbody>${end}\n</table>`
}

function figures(money: Page['money'], { images, ...amounts }: Amounts): string[] {
  const { list, discount, net, credit, due } = amounts
  return [String(images), ...[list, discount, net, credit, due].map(money)]
}

/** Every text that comes in goes out escaped. */
function row(texts: string[], numbers: string[], className = ''): string {
  const [first = '', ...rest] = texts.map(escapeHtml)
  const cells = [
    `<th scope="row">${first}</th>`,
    ...rest.map((text) => `<td>${text}</td>`),
    ...numbers.map((number) => `<td class="n">${escapeHtml(number)}</td>`),
  ]
  return `<tr${className ? ` class="${className}"` : ''}>${cells.join('')}</tr>`
}
