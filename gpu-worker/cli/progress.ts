import type { WriteStream } from 'node:tty'

import type { Progress } from '../pipeline/image-request.ts'

/** Width of the bar and of the stage's name, in columns; a line stays below 80. */
const BAR_COLUMNS = 30
const NAME_COLUMNS = 9
/** Share of a stage between two plain lines. */
const PLAIN_SHARE = 0.25

const LABELS: Record<Progress['stage'], string> = {
  images: 'images',
  tokens: 'layout',
  glyph: 'text',
  denoise: 'denoise',
  decode: 'pixels',
  encode: 'file',
}

export interface ProgressDisplay {
  show(progress: Progress): void
  /** Finishes the last line. Safe to repeat. */
  end(): void
}

/**
 * A bar that is redrawn on a terminal, and a plain line per quarter of a stage anywhere else.
 *
 * @param now clock in milliseconds
 */
export function createProgressDisplay(
  stream: Pick<WriteStream, 'write'> & { isTTY?: boolean },
  now: () => number = () => performance.now(),
): ProgressDisplay {
  const isTerminal = stream.isTTY === true
  let stage: Progress['stage'] | null = null
  let startMs = 0
  let nextPlain = 0
  let isLineOpen = false
  const end = () => {
    if (isLineOpen) stream.write('\n')
    isLineOpen = false
  }
  return {
    end,
    show(progress) {
      if (progress.stage !== stage) {
        end()
        stage = progress.stage
        startMs = now()
        nextPlain = PLAIN_SHARE
      }
      const share = progress.step / progress.total
      const seconds = ((now() - startMs) / 1000).toFixed(1)
      const name = LABELS[progress.stage].padEnd(NAME_COLUMNS)
      const steps = `${progress.step}/${progress.total}`
      if (isTerminal) {
        const filled = Math.floor(share * BAR_COLUMNS)
        const bar = '█'.repeat(filled) + '░'.repeat(BAR_COLUMNS - filled)
        stream.write(`\r\u001b[K${name} ${bar} ${steps.padStart(9)}  ${seconds} s`)
        isLineOpen = true
      } else if (share >= nextPlain) {
        stream.write(`${name} ${steps}  ${seconds} s\n`)
        nextPlain = (Math.floor(share / PLAIN_SHARE) + 1) * PLAIN_SHARE
      }
    },
  }
}
