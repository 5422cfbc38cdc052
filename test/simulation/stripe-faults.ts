import type { Fault, FakeStripe } from '../support/fake-stripe/server.ts'
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

/** Lets calls of the API fail as those of a network and of a busy server do. */
export function strikeStripe(
  fake: FakeStripe,
  input: { random: Random; ledger: FaultLedger; isQuiet: () => boolean },
): void {
  const { random, ledger, isQuiet } = input
  fake.fault = ({ method, path }) => {
    if (isQuiet() || !random.chance(RATE)) return 'none'
    const kind = random.pick(KINDS)
    ledger.note(`Stripe ${nameOf(method, path)}`, NAMES[kind])
    return kind
  }
}

/** Calls that write have a name each; a lost reading is a lost reading. */
function nameOf(method: string, path: string): string {
  if (method === 'GET') return 'reading'
  const parts = path.split('/').slice(2)
  return parts.filter((part) => !/\d/.test(part)).join(' ')
}
