import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { UsageError } from '../cli/generate-arguments.ts'

/** What makes the pictures of a folder: a run with other settings must not go on with them. */
export type RunSettings = Readonly<Record<string, string | number | null>>

/**
 * Makes the folder of a run, or finds one that a run with these settings has begun.
 *
 * @throws UsageError naming what differs
 */
export async function claimFolder(folder: string, settings: RunSettings): Promise<void> {
  await mkdir(folder, { recursive: true })
  const file = join(folder, 'settings.json')
  const found = await readFile(file, 'utf8').catch(() => null)
  if (found === null) return writeFile(file, `${JSON.stringify(settings, null, 1)}\n`)
  const before = JSON.parse(found) as RunSettings
  const other = Object.keys(settings).find((name) => settings[name] !== before[name])
  if (other === undefined) return
  throw new UsageError(
    `${folder} holds a run whose ${other} is ${before[other]}, not ${settings[other]}; name another folder by --out`,
  )
}
