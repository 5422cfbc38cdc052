import { execFile } from 'node:child_process'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { afterEach, beforeEach, expect, test } from 'vitest'

import { openTensorFile } from '../../gpu-worker/model/safetensors.ts'

const GOLDEN = fileURLToPath(new URL('../fixtures/golden', import.meta.url))
const COMMAND = fileURLToPath(new URL('../../gpu-worker/cli/parity.ts', import.meta.url))
const FLAGS = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']

/** What the cases of editing hold. */
const EDIT_STAGES = [
  'pixel values',
  'source tokens',
  'prior token ids of images',
  'encoder input 1',
  'encoder mean 1',
  'rendered prompt',
  'input ids',
  'prompt positions',
  'greedy tokens',
  'greedy logits',
  'final latents',
]

let root: string
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'parity-'))
})
afterEach(() => rm(root, { recursive: true, force: true }))

function run(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [...FLAGS, COMMAND, ...args], (error, out, err) =>
      resolve({ code: typeof error?.code === 'number' ? error.code : error ? -1 : 0, out, err }),
    )
  })
}

/** A copy of the reference folder with only the named cases in its list. */
async function copyCases(...names: string[]): Promise<string> {
  await cp(GOLDEN, root, { recursive: true })
  const path = join(root, 'cases/cases.json')
  const list = JSON.parse(await readFile(path, 'utf8'))
  const cases = list.cases.filter((entry: { name: string }) => names.includes(entry.name))
  await writeFile(path, JSON.stringify({ ...list, cases }))
  return root
}

/** Adds to the first element of a float32 tensor, or 1 to that of an int64 one. */
async function changeFirst(path: string, tensor: string, amount = 1): Promise<void> {
  const { dtype, offset } = (await openTensorFile(path)).get(tensor)
  const bytes = await readFile(path)
  if (dtype === 'I64') bytes.writeBigInt64LE(bytes.readBigInt64LE(offset) + 1n, offset)
  else bytes.writeFloatLE(bytes.readFloatLE(offset) + amount, offset)
  await writeFile(path, bytes)
}

test('the reference folder agrees in every stage of every case', async () => {
  const { code, out, err } = await run(GOLDEN)
  expect(err).toBe('')
  expect(code).toBe(0)
  const list = JSON.parse(await readFile(join(GOLDEN, 'cases/cases.json'), 'utf8'))
  for (const { name } of list.cases) expect(out).toMatch(new RegExp(`^${name} .* ok$`, 'm'))
  expect(out).toMatch(/^ar_\w+ +sampled tokens in chunks of 1, 32, 100 .* ok$/m)
  for (const stage of EDIT_STAGES) {
    expect(out).toMatch(new RegExp(`^edit_two +${stage} .* ok$`, 'm'))
  }
  expect(out).not.toContain('not covered')
  expect(out).not.toContain('DIFFERS')
  expect(out).toMatch(/^(\d+) of \1 stages agree$/m)
})

test.each([['--backend', 'capi'], ['--backend=capi']])(
  'the C interface agrees with the reference too: %s',
  async (...flags) => {
    const dir = await copyCases('ar_poster', 'dit_poster')
    const { code, out } = await run(dir, ...flags)
    expect(code).toBe(0)
    expect(out).toMatch(/^dit_poster +final latents .* ok$/m)
    expect(out).toMatch(/^(\d+) of \1 stages agree$/m)
  },
)

test('a backend that there is not is wrong usage', async () => {
  const { code, err } = await run(GOLDEN, '--backend', 'wasm')
  expect(code).toBe(2)
  expect(err).toContain('[--backend node|capi]')
})

test.each([
  ['a weight', 'transformer', 'proj_out.bias', 'dit_poster', 'conditional call'],
  ['a weight', 'text_encoder', 'encoder.final_layer_norm.weight', 'glyph_poster', 'prompt embeds'],
  ['a weight', 'vae', 'encoder.conv_out.bias', 'edit_one', 'encoder mean 0'],
  [
    'a weight',
    'vision_language_encoder',
    'model.vqmodel.quant_conv.bias',
    'edit_one',
    'source tokens',
  ],
])(
  'a changed tensor of the checkpoint is caught: %s of %s',
  async (_, folder, tensor, name, stage) => {
    const dir = await copyCases(name)
    const isDiffusers = folder === 'transformer' || folder === 'vae'
    const file = isDiffusers ? 'diffusion_pytorch_model' : 'model'
    // Enough to turn every code of an image; the other stages see far less.
    await changeFirst(join(dir, 'checkpoint', folder, `${file}.safetensors`), tensor, 100)
    const { code, out } = await run(dir)
    expect(out).toMatch(new RegExp(`^${name} +${stage} .* DIFFERS$`, 'm'))
    expect(code).toBe(1)
  },
)

test.each([
  ['dit_poster', 'final_latents', 'final latents'],
  ['ar_poster', 'input_ids', 'input ids'],
  ['sched_64x96_6', 'sigmas', 'sigmas'],
  ['edit_one', 'pixel_values', 'pixel values'],
  ['edit_two', 'final_latents', 'final latents'],
])('a changed reference tensor is caught: %s %s', async (name, tensor, stage) => {
  const dir = await copyCases(name)
  await changeFirst(join(dir, `cases/${name}.safetensors`), tensor)
  const { code, out } = await run(dir)
  expect(out).toMatch(new RegExp(`^${name} +${stage} .* DIFFERS$`, 'm'))
  expect(out.match(/DIFFERS$/gm)).toHaveLength(1)
  expect(code).toBe(1)
})

test('a folder without cases, without a checkpoint or with nothing to compare is refused', async () => {
  expect(await run(root)).toMatchObject({
    code: 2,
    err: `${root}/checkpoint/vision_language_encoder/config.json: file is missing\n`,
  })
  expect(await run()).toMatchObject({ code: 2, err: expect.stringContaining('DIR holds') })
  const dir = await copyCases('unknown')
  expect(await run(dir)).toMatchObject({
    code: 2,
    err: `${dir}/cases: no case of a known kind\n`,
  })
  await rm(join(dir, 'cases/cases.json'))
  expect(await run(dir)).toMatchObject({
    code: 2,
    err: `${dir}/cases/cases.json: cannot be read\n`,
  })
})
