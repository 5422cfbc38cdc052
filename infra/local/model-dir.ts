import { readdir } from 'node:fs/promises'
import { join } from 'node:path'

/** What the worker opens first; the whole check is its own. */
const NEEDED_FILES = [
  'vision_language_encoder/config.json',
  'text_encoder/config.json',
  'transformer/config.json',
  'vae/config.json',
  'scheduler/scheduler_config.json',
  'processor/tokenizer.json',
  'processor/tokenizer_config.json',
]
const WEIGHT_FOLDERS = ['vision_language_encoder', 'text_encoder', 'transformer', 'vae']
/** More names than this tell no more. */
const MAX_SHOWN = 3

/**
 * Looks whether a folder can be a checkpoint, without reading its weights.
 *
 * @param name the option or variable that named the folder
 * @throws with that name and what is missing
 */
export async function assertCheckpoint(dir: string, name: string): Promise<void> {
  const missing: string[] = []
  const listed = new Map<string, string[]>()
  for (const path of [...NEEDED_FILES, ...WEIGHT_FOLDERS.map((each) => `${each}/*.safetensors`)]) {
    const [folder = '', file = ''] = path.split('/')
    const names = listed.get(folder) ?? (await readdir(join(dir, folder)).catch(() => []))
    listed.set(folder, names)
    const isThere = file.startsWith('*')
      ? names.some((each) => each.endsWith(file.slice(1)))
      : names.includes(file)
    if (!isThere) missing.push(path)
  }
  if (missing.length === 0) return
  const isFolder = await readdir(dir).then(
    () => true,
    () => false,
  )
  if (!isFolder) throw new Error(`${name}: there is no folder ${dir}`)
  const more = missing.length > MAX_SHOWN ? ` and ${missing.length - MAX_SHOWN} more` : ''
  throw new Error(
    `${name}: ${dir} is not a checkpoint in the layout of zai-org/GLM-Image.\nMissing there: ${missing.slice(0, MAX_SHOWN).join(', ')}${more}`,
  )
}
