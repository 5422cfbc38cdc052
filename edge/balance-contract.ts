import { z } from '@hono/zod-openapi'

const usd = z.string().regex(/^-?\d+\.\d{6}$/)
const instant = z.iso.datetime()

/** Beside a limit: set while that is still on its way down to it. */
const nextLimit = usd.nullable().openapi({
  description:
    'The limit that was set, while more than that is held and spent; nothing new is accepted meanwhile.',
})

const levelBalance = z
  .strictObject({
    scope: z.enum(['key', 'team', 'org']),
    id: z.string(),
    credit: usd.nullable(),
    credit_next: nextLimit,
    available: usd.nullable(),
    held: usd,
    spent: usd,
    day_limit: usd.nullable(),
    day_limit_next: nextLimit,
    day_held: usd,
    day_spent: usd,
    day_resets_at: instant.nullable(),
    month_limit: usd.nullable(),
    month_limit_next: nextLimit,
    month_held: usd,
    month_spent: usd,
    month_resets_at: instant.nullable(),
    inflight: z.int(),
    max_inflight: z.int().nullable(),
    soft_thresholds_bp: z.array(z.int()).openapi({
      description:
        'Shares of each limit in basis points; spending that reaches one sends `budget.threshold_reached`.',
    }),
  })
  .openapi('LevelBalance')

export const balanceAnswer = z
  .strictObject({ currency: z.literal('USD'), levels: z.array(levelBalance) })
  .openapi('Balance')
