import { BUDGET_CHECKS } from './budget-checks.ts'
import { LEDGER_CHECKS } from './ledger-checks.ts'
import { WORK_CHECKS } from './work-checks.ts'
import type { Check } from './difference.ts'

/** All comparisons of the books. */
export const CHECKS: readonly Check[] = [...LEDGER_CHECKS, ...BUDGET_CHECKS, ...WORK_CHECKS]
