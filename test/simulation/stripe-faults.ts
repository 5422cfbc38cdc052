import type { Fault, FakeStripe, Params } from '../support/fake-stripe/server.ts'
import type { FaultLedger } from './fault-ledger.ts'
import type { Random } from './random.ts'

const KINDS: readonly [Exclude<Fault, 'none'>, ...Exclude<Fault, 'none'>[]] = [
  'lost',
  'lost-answer',
  'lost-answer',
  '429',
  '500',
  '500-after',
]
const NAMES: Record<Exclude<Fault, 'none'>, string> = {
  lost: 'connection lost before',
  'lost-answer': 'applied, answer lost',
  '429': '429',
  '500': '500, nothing done',
  '500-after': '500 after it was applied',
}
const RATE = 0.15
/** Of the calls that make money due: they are few, and the ones that matter. */
const MAKING_RATE = 0.35
const MAKING = /^\/v1\/(invoiceitems|invoices|payment_intents|checkout\/sessions)$/
/** Of what a meter takes: an error report says so afterwards. */
const DROP_RATE = 0.25

/** Lets calls of the API fail as those of a network and of a busy server do. */
export function strikeStripe(
  fake: FakeStripe,
  input: { random: Random; ledger: FaultLedger; isQuiet: () => boolean },
): void {
  const { random, ledger, isQuiet } = input
  const dropped = new Set<string>()
  /** One revision of each window: after some more of those the product leaves it to a person. */
  const drop = (params: Params) => {
    const { stripe_customer_id: customer } = params.payload as Record<string, string>
    const window = `${customer} ${String(params.timestamp)}`
    if (dropped.has(window) || !random.chance(DROP_RATE)) return
    dropped.add(window)
    fake.state.rejectLater.add(String(params.identifier))
    ledger.note('Stripe billing meter_events', 'taken, and dropped later')
  }
  fake.fault = ({ method, path, params }) => {
    if (isQuiet()) return 'none'
    const isMaking = method === 'POST' && MAKING.test(path)
    const kind = random.chance(isMaking ? MAKING_RATE : RATE) ? random.pick(KINDS) : 'none'
    const isTaken = kind === 'none' || kind === 'lost-answer'
    if (isTaken && path === '/v1/billing/meter_events') drop(params)
    if (kind !== 'none') ledger.note(`Stripe ${nameOf(method, path)}`, NAMES[kind])
    return kind
  }
}

/** Calls that write have a name each; a lost reading is a lost reading. */
function nameOf(method: string, path: string): string {
  if (method === 'GET') return 'reading'
  const parts = path.split('/').slice(2)
  return parts.filter((part) => !/\d/.test(part)).join(' ')
}
