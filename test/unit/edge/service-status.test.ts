import { describe, expect, test } from 'vitest'
import type { Db } from '../../../db/client.ts'
import type { ServiceState } from '../../../db/service-state.ts'
import { createStatusReader, judgeService } from '../../../edge/service-status.ts'
import { statusPage } from '../../../edge/status-page.ts'

const AT = new Date('2026-11-30T02:45:10Z')
const NO_DB = {} as Db

function state(
  changes: { [Part in keyof ServiceState]?: Partial<ServiceState[Part]> } = {},
): ServiceState {
  return {
    jobs: {
      waiting: { standard: 0, batch: 0 },
      running: 0,
      overdue: 0,
      oldestWaitSeconds: null,
      oldestUnsentSeconds: null,
      medianWaitSeconds: null,
      lastBegunAt: null,
      lastSucceededAt: null,
      ...changes.jobs,
    },
    workers: { seen: 1, slots: 1, busy: 0, ...changes.workers },
    outbox: { unsent: 0 },
    webhooks: { due: 0, oldestDueSeconds: null, lastDeliveredAt: null, ...changes.webhooks },
    ledger: { unfoldedSeconds: null, ...changes.ledger },
    stripe: {
      unsentReports: 0,
      oldestUnsentSeconds: null,
      unsealedSeconds: null,
      unappliedEvents: 0,
      oldestUnappliedSeconds: null,
      lastAcceptedAt: null,
      ...changes.stripe,
    },
  }
}

const judge = (seen: ServiceState | null, hasStripe = true) =>
  judgeService({ state: seen, at: AT, tookMs: 3 }, { hasStripe })

describe('the judgement', () => {
  test('an empty fleet that nobody waits for is operational', () => {
    const made = judge(state({ workers: { seen: 0 } }))
    expect(made.status).toBe('operational')
    expect(Object.values(made.components).map(({ status }) => status)).toEqual(
      Array(6).fill('operational'),
    )
  })

  test.each([
    ['a wait of minutes', { jobs: { oldestWaitSeconds: 301 } }, 'queue', 'degraded'],
    ['a long wait', { jobs: { oldestWaitSeconds: 901 } }, 'queue', 'outage'],
    [
      'a wait without workers',
      { jobs: { oldestWaitSeconds: 301 }, workers: { seen: 0 } },
      'workers',
      'degraded',
    ],
    [
      'a long wait without workers',
      { jobs: { oldestWaitSeconds: 901 }, workers: { seen: 0 } },
      'workers',
      'outage',
    ],
    ['a wait with workers', { jobs: { oldestWaitSeconds: 901 } }, 'workers', 'operational'],
    ['messages that stay', { jobs: { oldestUnsentSeconds: 61 } }, 'api', 'degraded'],
    ['messages that stay long', { jobs: { oldestUnsentSeconds: 901 } }, 'api', 'outage'],
    ['late webhooks', { webhooks: { oldestDueSeconds: 5_000 } }, 'webhooks', 'degraded'],
    ['late balances', { ledger: { unfoldedSeconds: 301 } }, 'billing', 'degraded'],
    ['late reports', { stripe: { oldestUnsentSeconds: 7_201 } }, 'billing', 'degraded'],
    ['late sums', { stripe: { unsealedSeconds: 7_201 } }, 'billing', 'degraded'],
    ['late news', { stripe: { oldestUnappliedSeconds: 3_601 } }, 'billing', 'degraded'],
  ] as const)('%s: %#', (_name, changes, part, expected) => {
    const made = judge(state(changes))
    expect(made.components[part].status).toBe(expected)
  })

  test('the whole is as bad as its worst part', () => {
    const late = { webhooks: { oldestDueSeconds: 200 } }
    expect(judge(state(late)).status).toBe('degraded')
    expect(judge(state({ ...late, jobs: { oldestWaitSeconds: 901 } })).status).toBe('outage')
  })

  test('what Stripe was not told is no question where it is not set up', () => {
    const made = judge(state({ stripe: { oldestUnsentSeconds: 99_999 } }), false)
    expect(made.components.billing).toMatchObject({ status: 'operational' })
  })

  test('without the database it is an outage, and the rest is not known', () => {
    const made = judge(null)
    const statuses = Object.entries(made.components).map(([name, { status }]) => [name, status])
    expect(made.status).toBe('outage')
    expect(Object.fromEntries(statuses)).toEqual({
      api: 'outage',
      database: 'outage',
      queue: 'unknown',
      workers: 'unknown',
      webhooks: 'unknown',
      billing: 'unknown',
    })
  })
})

describe('the page', () => {
  test('says every part with its figures, and runs and loads nothing', () => {
    const lastSucceededAt = new Date('2026-11-30T02:40:00Z')
    const page = statusPage(
      judge(state({ jobs: { running: 1, lastSucceededAt, oldestWaitSeconds: 400 } })),
    )
    expect(page).toContain('Some parts are slow')
    expect(page).toContain('1 job running, last success 2026-11-30 02:40:00 UTC')
    expect(page).toContain('oldest 7 min')
    expect(page).not.toMatch(/<script|src=|href=/)
  })
})

describe('the reader', () => {
  /** A database whose answers come when the test says so. */
  function createReads() {
    const answers: ((answer: ServiceState | Error) => void)[] = []
    const read = () =>
      new Promise<ServiceState>((resolve, reject) =>
        answers.push((answer) => (answer instanceof Error ? reject(answer) : resolve(answer))),
      )
    return { answers, read }
  }

  test('many who ask at once cost one look', async () => {
    const { answers, read } = createReads()
    const reader = createStatusReader(() => new Date(), read)
    const asked = Array.from({ length: 200 }, () => reader.look(NO_DB))
    answers[0]?.(state())
    await Promise.all(asked)
    expect(answers).toHaveLength(1)
  })

  test('a look is good for five seconds; then one looks anew while the others hear the last', async () => {
    let nowMs = AT.getTime()
    const { answers, read } = createReads()
    const reader = createStatusReader(() => new Date(nowMs), read)
    const first = reader.look(NO_DB)
    answers[0]?.(state({ jobs: { running: 1 } }))
    expect((await first).state?.jobs.running).toBe(1)
    nowMs += 4_999
    await reader.look(NO_DB)
    expect(answers).toHaveLength(1)
    nowMs += 1
    const second = reader.look(NO_DB)
    expect((await reader.look(NO_DB)).state?.jobs.running).toBe(1)
    expect(answers).toHaveLength(2)
    answers[1]?.(state({ jobs: { running: 2 } }))
    expect((await second).state?.jobs.running).toBe(2)
  })

  test('what is too old is not told any more, also not while somebody looks', async () => {
    let nowMs = AT.getTime()
    const { answers, read } = createReads()
    const reader = createStatusReader(() => new Date(nowMs), read)
    const first = reader.look(NO_DB)
    answers[0]?.(state({ jobs: { running: 1 } }))
    await first
    nowMs += 60_000
    const asked = [reader.look(NO_DB), reader.look(NO_DB)]
    answers[1]?.(state({ jobs: { running: 2 } }))
    expect((await Promise.all(asked)).map((look) => look.state?.jobs.running)).toEqual([2, 2])
    expect(answers).toHaveLength(2)
  })

  test('a database that refuses is told as one that does not answer, and not asked again at once', async () => {
    const { answers, read } = createReads()
    const reader = createStatusReader(() => AT, read)
    const first = reader.look(NO_DB)
    answers[0]?.(new Error('the database is away'))
    expect((await first).state).toBeNull()
    expect((await reader.look(NO_DB)).state).toBeNull()
    expect(answers).toHaveLength(1)
  })

  test('a look whose caller is gone is made by another', async () => {
    let nowMs = AT.getTime()
    const { answers, read } = createReads()
    const reader = createStatusReader(() => new Date(nowMs), read)
    void reader.look(NO_DB)
    nowMs += 10_000
    const second = reader.look(NO_DB)
    expect(answers).toHaveLength(2)
    answers[1]?.(state({ jobs: { running: 3 } }))
    expect((await second).state?.jobs.running).toBe(3)
  })
})
