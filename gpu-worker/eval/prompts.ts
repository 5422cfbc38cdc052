import { readdir, readFile, stat } from 'node:fs/promises'
import { basename, extname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { quotedTexts } from '../../db/text-words.ts'
import type { Suite } from './protocol.ts'

/** One prompt of a suite with what its picture has to show. */
export interface EvalPrompt {
  readonly id: string
  readonly prompt: string
  readonly texts: readonly string[]
  readonly regions: number
  readonly language: 'en' | 'es' | 'zh'
}

/** Prompt files cannot be used; the message names the file and the rule. */
export class PromptFileError extends Error {}

/** The small sets that come with the project: the formats of the published ones, other prompts. */
export const BUNDLED: Readonly<Record<Suite, string>> = {
  ours: bundled('ours.jsonl'),
  cvtg2k: bundled('cvtg-sample.json'),
  longtext: bundled('longtext-sample.jsonl'),
}

function bundled(name: string): string {
  return fileURLToPath(new URL(`./prompts/${name}`, import.meta.url))
}

const id = z.union([z.string().min(1), z.number()]).transform(String)
const entry = z.looseObject({
  prompt: z.string().min(1),
  /** LongText-Bench, CVTG-2K and anybody else. */
  prompt_id: id.optional(),
  index: id.optional(),
  id: id.optional(),
  text: z.union([z.string(), z.array(z.string())]).optional(),
  texts: z.array(z.string()).optional(),
})

/**
 * Reads prompts as CVTG-2K (`{ "data_list": [{ "index", "prompt" }] }`, a file for each number of regions) and
 * LongText-Bench (JSON lines of `{ "prompt_id", "prompt", "text" }`) have them; a list in JSON is taken too. A folder
 * stands for its files, in the order of their names.
 *
 * Of CVTG-2K the texts are those between plain single quotes, whatever else an entry says.
 *
 * @throws PromptFileError
 */
export async function readPrompts(suite: Suite, paths: readonly string[]): Promise<EvalPrompt[]> {
  const files = (await Promise.all(paths.map(filesOf))).flat()
  const prompts: EvalPrompt[] = []
  const ids = new Set<string>()
  for (const file of files) {
    for (const [index, raw] of parse(file, await readFile(file, 'utf8')).entries()) {
      const parsed = entry.safeParse(raw)
      if (!parsed.success) {
        throw new PromptFileError(
          `${file}: entry ${index + 1} is no prompt: ${z.prettifyError(parsed.error)}`,
        )
      }
      const own = parsed.data.prompt_id ?? parsed.data.index ?? parsed.data.id ?? String(index + 1)
      const prefix = files.length > 1 ? `${basename(file, extname(file))}-` : ''
      const made = toPrompt(suite, `${prefix}${own}`, parsed.data)
      if (ids.has(made.id)) throw new PromptFileError(`${file}: two prompts are called ${made.id}`)
      ids.add(made.id)
      prompts.push(made)
    }
  }
  return prompts
}

async function filesOf(path: string): Promise<string[]> {
  const found = await stat(path).catch(() => null)
  if (found === null) throw new PromptFileError(`${path} is not there`)
  if (!found.isDirectory()) return [path]
  const names = (await readdir(path)).filter((name) => /\.jsonl?$/.test(name)).toSorted()
  return names.map((name) => join(path, name))
}

function parse(file: string, text: string): unknown[] {
  try {
    if (file.endsWith('.jsonl')) {
      const lines = text.split('\n').filter((line) => line.trim() !== '')
      return lines.map((line): unknown => JSON.parse(line))
    }
    const whole: unknown = JSON.parse(text)
    const list = z.looseObject({ data_list: z.array(z.unknown()) }).safeParse(whole)
    return list.success ? list.data.data_list : z.array(z.unknown()).parse(whole)
  } catch (cause) {
    throw new PromptFileError(`${file} is neither JSON nor JSON lines of prompts`, { cause })
  }
}

const SINGLE_QUOTED = /'([^']*)'/gu
/** Names of picture files come from ids. */
const UNSAFE = /[^\p{L}\p{N}._-]+/gu

function toPrompt(suite: Suite, name: string, raw: z.output<typeof entry>): EvalPrompt {
  const { prompt, text = [], texts = typeof text === 'string' ? [text] : text } = raw
  const quoted =
    suite === 'cvtg2k'
      ? [...prompt.matchAll(SINGLE_QUOTED)].map((match) => match[1] ?? '')
      : texts.length > 0
        ? texts
        : quotedTexts(prompt)
  const words = quoted.join(' ')
  const language = /\p{Script=Han}/u.test(words) ? 'zh' : /[áéíóúñü¿¡]/iu.test(words) ? 'es' : 'en'
  return {
    id: name.replaceAll(UNSAFE, '_'),
    prompt,
    texts: quoted,
    regions: quoted.length,
    language,
  }
}

/** The first `count` prompts, taken from each number of texts in turn, so that a part is like the whole. */
export function takeInTurn(prompts: readonly EvalPrompt[], count: number): EvalPrompt[] {
  const groups = [...Map.groupBy(prompts, ({ regions }) => regions).values()]
  const taken = new Set<EvalPrompt>()
  for (let round = 0; taken.size < Math.min(count, prompts.length); round += 1) {
    for (const group of groups) {
      const next = group[round]
      if (next !== undefined && taken.size < count) taken.add(next)
    }
  }
  return prompts.filter((prompt) => taken.has(prompt))
}
