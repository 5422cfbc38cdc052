import type { Queue, QueueMessage } from './sqs.ts'

/** With nothing to do the first queue is asked for so long, and by so much a patient job may start later. */
const FIRST_WAIT_SECONDS = 5
/** And the second for so long, which is the most that a job in the first waits for an idle worker. */
const SECOND_WAIT_SECONDS = 1
/** Every fourth turn begins with the second queue, which so gets a quarter of what becomes free at least. */
const TURNS = 4

/**
 * Two queues as one: `first` for jobs that somebody waits for, `second` for those that may take a day. One at a time is
 * asked, so that there is never a message in hand for which there is no slot. A receipt names its queue.
 */
export function joinQueues(first: Queue, second: Queue): Queue {
  let turn = 0
  /** Nobody waits in the first queue, and asking it for long would leave the card idle between two patient jobs. */
  let isSecondBusy = false
  const of = (receipt: string): [Queue, string] => [
    receipt.startsWith('2:') ? second : first,
    receipt.slice(2),
  ]
  const ask = async (
    which: 1 | 2,
    waitSeconds: number,
    options: Parameters<Queue['receive']>[0],
  ): Promise<QueueMessage | null> => {
    const queue = which === 1 ? first : second
    const message = await queue.receive({ ...options, waitSeconds })
    if (message === null) return null
    isSecondBusy = which === 2
    return { ...message, receipt: `${which}:${message.receipt}` }
  }
  return {
    async receive(options) {
      turn = (turn + 1) % TURNS
      const { waitSeconds } = options
      const [firstWait, secondWait] = [
        Math.min(waitSeconds, isSecondBusy ? 0 : FIRST_WAIT_SECONDS),
        Math.min(waitSeconds, SECOND_WAIT_SECONDS),
      ]
      if (turn === 0) return (await ask(2, 0, options)) ?? (await ask(1, firstWait, options))
      const prompt = await ask(1, firstWait, options)
      if (prompt !== null) return prompt
      const patient = await ask(2, secondWait, options)
      if (patient === null) isSecondBusy = false
      return patient
    },
    extend: (receipt, seconds) => {
      const [queue, own] = of(receipt)
      return queue.extend(own, seconds)
    },
    remove: (receipt) => {
      const [queue, own] = of(receipt)
      return queue.remove(own)
    },
    close() {
      first.close()
      second.close()
    },
  }
}
