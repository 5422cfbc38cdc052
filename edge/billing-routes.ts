import type { Deps } from './deps.ts'
import { createRouter } from './openapi.ts'
import { balanceGet } from './routes/balance.get.ts'
import { jobsReceipts } from './routes/jobs.receipts.ts'
import { ledgerList } from './routes/ledger.list.ts'
import { quoteCreate } from './routes/quote.create.ts'
import { receiptsList } from './routes/receipts.list.ts'
import { statementsGet } from './routes/statements.get.ts'
import { statementsList } from './routes/statements.list.ts'
import { usageList } from './routes/usage.list.ts'

/** Paths behind the scope `read`, beside those of jobs. */
export const BILLING_PATHS = [
  '/v1/balance',
  '/v1/quote',
  '/v1/usage',
  '/v1/receipts',
  '/v1/ledger',
  // Covers `/v1/statements` itself too.
  '/v1/statements/*',
]

/** What an org can see of its money, and check. */
export function billingRoutes(deps: Deps) {
  return createRouter()
    .route('/', balanceGet(deps))
    .route('/', quoteCreate(deps))
    .route('/', usageList(deps))
    .route('/', receiptsList(deps))
    .route('/', jobsReceipts(deps))
    .route('/', ledgerList(deps))
    .route('/', statementsList(deps))
    .route('/', statementsGet(deps))
}
