import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { CheckpointError } from '../model/safetensors.ts'

export interface TextTokenizer {
  /** Token ids of a text in which special tokens may be spelled out; nothing is added. */
  encode(text: string): number[]
}

/**
 * Loads the byte-level tokenizer of a checkpoint's `processor/` folder.
 *
 * @throws CheckpointError when a file is missing or not what the library reads
 */
export async function openTokenizer(checkpointDir: string): Promise<TextTokenizer> {
  const read = async (name: string): Promise<object> => {
    const path = join(checkpointDir, 'processor', name)
    try {
      const parsed: unknown = JSON.parse(await readFile(path, 'utf8'))
      if (typeof parsed === 'object' && parsed !== null) return parsed
    } catch (cause) {
      throw new CheckpointError(`${path}: cannot be read as JSON`, { cause })
    }
    throw new CheckpointError(`${path}: not a JSON object`)
  }
  const tokenizer = new Tokenizer(await read('tokenizer.json'), await read('tokenizer_config.json'))
  return {
    encode: (text) =>
      text === '' ? [] : tokenizer.encode(text, { add_special_tokens: false }).ids.map(Number),
  }
}
