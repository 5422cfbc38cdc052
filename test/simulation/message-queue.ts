import type { Db } from '../../db/client.ts'
import { markDispatched } from '../../db/outbox.ts'
import type { DispatchQueue } from '../../edge/enqueue.ts'
import type { FaultLedger } from './fault-ledger.ts'
import type { Random } from './random.ts'

export interface Message {
  readonly id: string
  readonly jobId: string
  receives: number
  isHidden: boolean
  /** Who has it while it is hidden. */
  workerId: string
}

/** A queue with the promises of SQS and no more: at least once, in any order, and now and then not at all. */
export interface MessageQueue {
  /** Messages that were received too often. */
  readonly dead: Message[]
  readonly size: number
  put(jobId: string): void
  receive(workerId: string): Message | null
  /** Shows a received message again. */
  show(message: Message): void
  /** Shows a job's messages again, whoever holds them. */
  showJob(jobId: string): void
  remove(message: Message): void
  /** The visibility of what dead workers hold runs out, and now and then of what a live one holds. */
  expireVisibility(dead: ReadonlySet<string>): void
}

const MAX_RECEIVES = 3
const RATES = {
  doubled: 0.08,
  lost: 0.05,
  'answer to the sender lost': 0.06,
  refused: 0.06,
  'acknowledgement lost': 0.08,
  reordered: 0.15,
  'shown again under a worker': 0.04,
} as const

export function createMessageQueue(input: {
  random: Random
  ledger: FaultLedger
  isQuiet: () => boolean
  /** Told of each message that is taken, also of one that is then lost. */
  onTaken: (jobId: string) => void
}): MessageQueue & { strikes(kind: keyof typeof RATES): boolean } {
  const { random, ledger, isQuiet } = input
  const messages: Message[] = []
  const dead: Message[] = []
  let count = 0
  const add = (jobId: string) => {
    count += 1
    messages.push({ id: `message-${count}`, jobId, receives: 0, isHidden: false, workerId: '' })
  }
  const queue = {
    dead,
    get size() {
      return messages.length
    },
    strikes(kind: keyof typeof RATES) {
      const isStruck = !isQuiet() && random.chance(RATES[kind])
      if (isStruck) ledger.note('queue', kind)
      return isStruck
    },
    put(jobId: string) {
      input.onTaken(jobId)
      if (queue.strikes('lost')) return
      add(jobId)
      if (queue.strikes('doubled')) add(jobId)
    },
    receive(workerId: string) {
      const visible = messages.filter(({ isHidden }) => !isHidden)
      const isShuffled = visible.length > 1 && queue.strikes('reordered')
      const message = visible[isShuffled ? 1 + random.int(visible.length - 1) : 0]
      if (!message) return null
      message.receives += 1
      if (message.receives > MAX_RECEIVES) {
        messages.splice(messages.indexOf(message), 1)
        dead.push(message)
        return null
      }
      message.isHidden = true
      message.workerId = workerId
      return message
    },
    show(message: Message) {
      message.isHidden = false
    },
    showJob(jobId: string) {
      for (const message of messages) if (message.jobId === jobId) message.isHidden = false
    },
    remove(message: Message) {
      if (queue.strikes('acknowledgement lost')) return
      const at = messages.indexOf(message)
      if (at >= 0) messages.splice(at, 1)
    },
    expireVisibility(dead: ReadonlySet<string>) {
      for (const message of messages) {
        if (!message.isHidden) continue
        const isOver = dead.has(message.workerId) || isQuiet()
        if (isOver || queue.strikes('shown again under a worker')) message.isHidden = false
      }
    },
  }
  return queue
}

/** The gateway's way to the queue; the outbox row is marked by the product's own statement. */
export function createDispatcher(
  db: Db,
  queue: ReturnType<typeof createMessageQueue>,
): DispatchQueue {
  return {
    async send({ outboxId, jobId }) {
      if (queue.strikes('refused')) throw new Error('the queue refused it')
      queue.put(jobId)
      if (queue.strikes('answer to the sender lost')) throw new Error('the queue does not answer')
      await markDispatched(db, outboxId === null ? [] : [outboxId])
    },
  }
}
