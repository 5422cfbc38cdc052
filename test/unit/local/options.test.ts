import { cp, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { assertCheckpoint } from '../../../infra/local/model-dir.ts'
import { HELP, readOptions } from '../../../infra/local/options.ts'
import { MODEL_DIR } from '../../support/worker.ts'

describe('the command line', () => {
  test('names what is wrong with it, the way to write options, and where they are listed', () => {
    for (const [args, problem] of [
      [['--prot', '1'], "Unknown option '--prot'."],
      [['8788'], "Unexpected argument '8788'."],
      [['--port'], "Option '--port <value>' argument missing."],
      [['--new-key=1'], "Option '--new-key' does not take an argument."],
    ] as const) {
      const lines = [problem, 'Options come after two dashes, such as: npm start -- --port 8788']
      expect(() => readOptions([...args], {})).toThrow(lines.join('\n'))
    }
    expect(() => readOptions(['--port', '99999'], {})).toThrow('--port must be a whole number')
  })

  test('lists every option that it takes', () => {
    const taken = ['port', 'state-dir', 'model', 'threads', 'new-key', 'help']
    expect([...HELP.matchAll(/^ {2}--([a-z-]+)/gm)].map(([, name]) => name)).toEqual(taken)
    expect(readOptions(['--help'], {})).toBe(null)
  })

  test('goes before the variable in naming the checkpoint', () => {
    const env = { MODEL_DIR: '/by/variable' }
    const named = (args: string[]) => {
      const { modelDir, modelName } = readOptions(args, env) ?? {}
      return [modelName, modelDir]
    }
    expect(named([])).toEqual(['MODEL_DIR', '/by/variable'])
    expect(named(['--model', '/by/option'])).toEqual(['--model', '/by/option'])
  })
})

describe('a checkpoint folder', () => {
  let folder: string
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'glyphpress-model-'))
  })
  afterEach(() => rm(folder, { recursive: true, force: true }))

  test('that is whole is taken', async () => {
    await assertCheckpoint(MODEL_DIR, 'MODEL_DIR')
  })

  test('that is not there, or is something else, is refused by the name that named it', async () => {
    const missing = join(folder, 'missing')
    await expect(assertCheckpoint(missing, '--model')).rejects.toThrow(
      `--model: there is no folder ${missing}`,
    )
    await expect(assertCheckpoint(folder, 'MODEL_DIR')).rejects.toThrow(
      /^MODEL_DIR: .* is not a checkpoint .*\nMissing there: vision_language_encoder\/config.json, .* and 8 more$/,
    )
  })

  test('that lacks one part is refused with the part', async () => {
    for (const part of ['transformer/config.json', 'vae/diffusion_pytorch_model.safetensors']) {
      const copy = join(folder, part.replaceAll('/', '-'))
      await cp(MODEL_DIR, copy, { recursive: true })
      await rm(join(copy, part))
      const shown = part.endsWith('safetensors') ? 'vae/*.safetensors' : part
      await expect(assertCheckpoint(copy, 'MODEL_DIR')).rejects.toThrow(`Missing there: ${shown}`)
    }
  })
})
