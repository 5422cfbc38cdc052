import { closeSync, fstatSync, openSync, renameSync, writeSync } from 'node:fs'

export interface LogFile {
  /** Adds a line. Never throws: a log that cannot be written must not end what it tells of. */
  write(line: string): void
  close(): void
}

/** About a hundred thousand lines; with the one before it, a part takes at most twice that. */
const MAX_BYTES = 10_000_000

/**
 * Opens a log at its end. Beyond `maxBytes` the file becomes `<path>.1`, in place of the one before, and a new
 * one is begun. Writes wait for the system's cache only, so that a line is there when the process is killed.
 *
 * @param options.onTrouble told once in words when lines are lost, and again only after it went well
 */
export function openLogFile(
  path: string,
  options: { onTrouble: (text: string) => void; maxBytes?: number },
): LogFile {
  const { onTrouble, maxBytes = MAX_BYTES } = options
  let file: number | null = null
  let sizeBytes = 0
  let isTroubled = false

  const open = () => {
    file = openSync(path, 'a', 0o600)
    sizeBytes = fstatSync(file).size
    return file
  }
  const close = () => {
    if (file !== null) closeSync(file)
    file = null
  }
  return {
    write(line) {
      const bytes = Buffer.from(`${line}\n`)
      try {
        let target = file ?? open()
        if (sizeBytes > 0 && sizeBytes + bytes.length > maxBytes) {
          close()
          renameSync(path, `${path}.1`)
          target = open()
        }
        sizeBytes += writeSync(target, bytes)
        isTroubled = false
      } catch (error) {
        if (!isTroubled) onTrouble(`${path} cannot be written: ${(error as Error).message}`)
        isTroubled = true
      }
    },
    close,
  }
}
