import { UsageError } from '../../billing/command-line.ts'
import { listContracts } from '../../billing/price-list.ts'
import type { ContractRow } from '../../billing/price-list.ts'
import { LIST_BOOK, agreePrice } from '../../billing/price.ts'
import { Refusal, defineCommand } from './command.ts'
import type { Command } from './command.ts'
import { theOrg } from './lookup.ts'
import { instant, maybe, percent, text } from './options.ts'
import type { Row } from './output.ts'
import { SEEN_LATER, soon, theBook } from './price.ts'

const set = defineCommand({
  name: 'contract set',
  help: `Agrees prices with an organisation from a date on: a book of prices, a discount on a book, or both. The contract of
before ends there; accepted jobs keep their price. --discount 0% goes back to list prices.`,
  args: {},
  options: {
    org: text('ORG', 'id or name'),
    book: maybe(
      text('BOOK', `id of the book; what it does not price is at list price (${LIST_BOOK})`),
    ),
    discount: maybe(percent('off the prices of the book, such as 10%')),
    from: maybe(instant('not in the past (now)')),
  },
  async run({ db, note }, values) {
    const { book, discount } = values
    if (book === undefined && discount === undefined) {
      throw new UsageError('a term is missing: give --book, --discount or both')
    }
    const { id: orgId } = await theOrg(db, '--org', values.org)
    const bookId = await theBook(db, book ?? LIST_BOOK)
    const validFrom = values.from ?? (await soon(db))
    const result = await agreePrice(db, { orgId, bookId, discountBp: discount ?? 0, validFrom })
    if (!result.ok) throw new Refusal(`--from: ${result.message}`)
    const made = (await listContracts(db, orgId)).find(({ id }) => id === result.id)
    if (!made) throw new Error(`contract ${result.id} is not there`)
    note(SEEN_LATER)
    return { org: orgId, ...toContractRow(made) }
  },
})

const list = defineCommand({
  name: 'contract list',
  help: 'Lists the contracts that an organisation has and had.',
  args: {},
  options: { org: text('ORG', 'id or name') },
  async run({ db }, values) {
    const { id: orgId } = await theOrg(db, '--org', values.org)
    return (await listContracts(db, orgId)).map(toContractRow)
  },
})

export function toContractRow(row: ContractRow): Row {
  return {
    id: row.id,
    book: row.bookId,
    discount: `${row.discountBp / 100}%`,
    state: row.state,
    from: row.validFrom,
    to: row.validTo,
  }
}

export const CONTRACT_COMMANDS: readonly Command[] = [set, list]
