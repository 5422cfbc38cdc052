import { openTextModels } from './models.ts'
import type { ReadLine, TextModels } from './models.ts'

/** Parent to child, one at a time. */
export interface ReaderCommand {
  callId: number
  file: Uint8Array
}

/** Child to parent: one answer to each command; null when the picture could not be read. */
export interface ReaderReport {
  callId: number
  lines: ReadLine[] | null
}

/** The child that holds the models of `reader.ts`. */
let models: Promise<TextModels> | null = null

// The parent decides what an interrupt means; the terminal sends it to the whole process group.
process.on('SIGINT', () => {})
process.on('SIGTERM', () => {})
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))
process.on('message', (command: ReaderCommand) => void answer(command))

async function answer({ callId, file }: ReaderCommand): Promise<void> {
  const report: ReaderReport = { callId, lines: null }
  try {
    models ??= openTextModels()
    report.lines = await (await models).read(file)
  } catch (error) {
    console.error(`the text of a picture could not be read: ${String(error)}`)
  }
  process.send?.(report, undefined, undefined, () => {})
}
