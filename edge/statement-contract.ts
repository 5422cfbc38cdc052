import { z } from '@hono/zod-openapi'

/** US dollars as a decimal text with six digits. */
const usd = z.string().regex(/^-?\d+\.\d{6}$/)
const instant = z.iso.datetime()
export const month = z
  .string()
  .regex(/^20\d\d-(0[1-9]|1[0-2])$/, 'must be a month such as 2026-11')
  .openapi({ example: '2026-11', description: 'A calendar month in UTC.' })

const amounts = z
  .strictObject({
    images: z.int(),
    list: usd,
    discount: usd,
    net: usd,
    credit: usd.openapi({ description: 'The part of net that promotional credit paid.' }),
    due: usd.openapi({ description: 'Net less credit.' }),
  })
  .openapi('Amounts')
const part = { usage: amounts, corrections: amounts, total: amounts }

const team = z.strictObject({ id: z.string(), name: z.string(), cost_centre: z.string() })
const tags = z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()]))

/** The JSON form of a statement: what `StatementDocument` says in words. */
export const statement = z
  .strictObject({
    format: z.literal('glyphpress-statement-1'),
    month,
    period_start: instant,
    period_end: instant,
    currency: z.literal('USD'),
    org: z.strictObject({
      id: z.string(),
      name: z.string(),
      kind: z.enum(['external', 'internal']),
      settlement_mode: z.enum(['prepaid', 'postpaid', 'internal']),
    }),
    team: team.nullable(),
    ...part,
    earlier_periods: amounts,
    by_team: z.array(z.strictObject({ team_id: z.string(), ...part })),
    by_key: z.array(z.strictObject({ team_id: z.string(), key_id: z.string(), ...part })),
    by_sku: z.array(z.strictObject({ sku_id: z.string(), ...part })),
    by_day: z.array(z.strictObject({ day: z.iso.date(), ...part })),
    correction_groups: z.array(
      amounts.extend({
        reason: z.enum(['refund', 'moved_out', 'moved_in']),
        of_month: month,
        team_id: z.string(),
        key_id: z.string(),
        sku_id: z.string(),
        lines: z.int(),
      }),
    ),
    account: z
      .strictObject({
        type: z.enum(['prepaid', 'receivable', 'team_cost']),
        opening: usd,
        movements: z.array(z.strictObject({ kind: z.string(), amount: usd })),
        closing: usd,
      })
      .nullable(),
    open_holds: z.strictObject({
      count: z.int(),
      amount: usd,
      listed: z.array(
        z.strictObject({
          job_id: z.string(),
          team_id: z.string(),
          key_id: z.string(),
          amount: usd,
          held_since: instant,
        }),
      ),
    }),
    teams: z.array(team),
    keys: z.array(z.strictObject({ id: z.string(), name: z.string(), last4: z.string(), tags })),
    skus: z.array(
      z.strictObject({
        id: z.string(),
        model: z.string(),
        size_class: z.string(),
        quality: z.string(),
        priority: z.string(),
      }),
    ),
  })
  .openapi('Statement')

export const statementList = z
  .strictObject({
    object: z.literal('list'),
    data: z.array(
      z.strictObject({
        month,
        state: z.enum(['current', 'open', 'closed']),
        sha256: z.string().nullable(),
        closed_at: instant.nullable(),
      }),
    ),
  })
  .openapi('StatementList')
