import { formatUsd } from '../billing/money.ts'
import type { NewJob, ReserveRefusal } from '../billing/reserve.ts'
import { ApiError, ZAI_STATUS } from './errors.ts'
import { inflightHeaders } from './limits.ts'

/** What the words about a refusal depend on: the dialect, and where the caller's own key stood. */
export interface RefusedCall {
  dialect: NewJob['dialect']
  idempotency: { param: string } | null
}

/** The error of a refusal. */
export function toRefusalError(refusal: ReserveRefusal, order: RefusedCall): ApiError {
  switch (refusal.reason) {
    case 'key_inactive':
      return new ApiError('key_invalid')
    case 'org_frozen':
      return new ApiError(
        'org_frozen',
        order.dialect === 'zai' ? { status: ZAI_STATUS.org_frozen } : {},
      )
    case 'idempotency_mismatch':
      return new ApiError('idempotency_mismatch', {
        message: `This key belongs to another request, whose task id is ${refusal.jobId}.`,
        ...(order.idempotency === null ? {} : { param: order.idempotency.param }),
        data: { task_id: refusal.jobId },
      })
    case 'too_many_inflight':
      return new ApiError('too_many_inflight', {
        message: `The ${refusal.scope} has ${refusal.inflight} unfinished jobs, and at most ${refusal.maxInflight} are allowed.`,
        data: {
          reason: 'concurrency',
          scope: refusal.scope,
          limit: refusal.maxInflight,
          inflight: refusal.inflight,
        },
        headers: { 'retry-after': '5', ...inflightHeaders(refusal) },
      })
    case 'insufficient_credit':
    case 'budget_exceeded': {
      const { scope, period, limitMicros, spentMicros, heldMicros, amountMicros, resetsAt } =
        refusal
      const left = formatUsd(limitMicros - spentMicros - heldMicros)
      return new ApiError(refusal.reason, {
        ...(order.dialect === 'zai' ? { status: ZAI_STATUS[refusal.reason] } : {}),
        message: `The ${scope} has ${left} USD left${period === null ? '' : ` this ${period}`}, and this request needs ${formatUsd(amountMicros)} USD.`,
        data: {
          reason: refusal.reason === 'budget_exceeded' ? 'budget' : 'credit',
          scope,
          ...(period === null ? {} : { period }),
          limit: formatUsd(limitMicros),
          spent: formatUsd(spentMicros),
          held: formatUsd(heldMicros),
          amount: formatUsd(amountMicros),
          resets_at: resetsAt?.toISOString() ?? null,
        },
      })
    }
  }
}
