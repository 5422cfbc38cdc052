import { join } from 'node:path'
import { Tokenizer } from '@huggingface/tokenizers'
import { readJsonObject } from '../model/json-file.ts'
import { CheckpointError } from '../model/checkpoint-error.ts'

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
  const path = join(checkpointDir, 'processor', 'tokenizer.json')
  const vocabulary = await readJsonObject(path)
  const config = await readJsonObject(join(checkpointDir, 'processor', 'tokenizer_config.json'))
  const tokenizer = load(path, vocabulary, config)
  return {
    encode: (text) =>
      text === '' ? [] : tokenizer.encode(text, { add_special_tokens: false }).ids.map(Number),
  }
}

function load(path: string, vocabulary: object, config: object): Tokenizer {
  try {
    return new Tokenizer(vocabulary, config)
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new CheckpointError(`${path}: the tokenizer cannot be used: ${reason}`, { cause })
  }
}
