import type { WriteStream } from 'node:tty'
import type { EvalItem } from './report.ts'
import { scoreOf } from './score.ts'

const BAR_COLUMNS = 30
/** Pictures between two plain lines. */
const PLAIN_EVERY = 10

/** A bar that is redrawn on a terminal, and a plain line now and then anywhere else, with the score so far. */
export function createEvalProgress(stream: Pick<WriteStream, 'write'> & { isTTY?: boolean }) {
  const isTerminal = stream.isTTY === true
  const startedAt = performance.now()
  let first: number | null = null
  let isLineOpen = false
  return {
    show(done: number, total: number, items: readonly EvalItem[]) {
      first ??= done
      const { accuracy } = scoreOf(items.map(({ tally }) => tally))
      const perPicture = (performance.now() - startedAt) / Math.max(1, done - first)
      const left =
        done === first ? '' : `, ${Math.ceil(((total - done) * perPicture) / 1_000)} s left`
      const text = `${done}/${total}  accuracy ${accuracy === null ? '-' : accuracy.toFixed(3)}${left}`
      if (isTerminal) {
        const filled = total === 0 ? BAR_COLUMNS : Math.floor((done / total) * BAR_COLUMNS)
        stream.write(`\r\u001b[K${'█'.repeat(filled)}${'░'.repeat(BAR_COLUMNS - filled)} ${text}`)
        isLineOpen = true
      } else if (done === first || done === total || done % PLAIN_EVERY === 0) {
        stream.write(`${text}\n`)
      }
    },
    end() {
      if (isLineOpen) stream.write('\n')
      isLineOpen = false
    },
  }
}
