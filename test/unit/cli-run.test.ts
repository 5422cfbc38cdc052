import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync } from 'node:fs'
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import { afterEach, beforeEach, describe, expect, test } from 'vitest'

import { createCheckpointCopies } from '../support/checkpoints.ts'
import { drawPicture } from '../support/pictures.ts'
import { MODEL_DIR } from '../support/worker.ts'

/** The command as a process, as a person at a terminal has it. */

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const NODE = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']
const MODEL = ['--model', MODEL_DIR]
const SMALL = [...'--prompt x --size 64x64 --steps 1 --seed 7 --threads 1'.split(' '), ...MODEL]
/** Longer than any test waits. */
const LARGE = [...'--prompt x --size 2048x2048 --steps 100 --threads 1'.split(' '), ...MODEL]
/** With the bundled checkpoint, which draws no smaller one. */
const BUNDLED = ['--prompt', 'x', '--size', '256x256', '--steps', '1', '--threads', '1']

let dir: string
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'generate-'))
})
afterEach(() => rm(dir, { recursive: true, force: true }))

interface Ended {
  code: number | null
  out: string
  err: string
}

function start(command: string, args: readonly string[], options: { cwd?: string } = {}) {
  const env = { ...process.env }
  for (const name of ['INIT_CWD', 'npm_lifecycle_event']) delete env[name]
  const child = spawn(command, args, { cwd: options.cwd ?? dir, env })
  let [out, err] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => (out += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (err += text))
  // Ended only when all that it started has let go of its output.
  const ended = new Promise<Ended>((resolve) =>
    child.on('close', (code) => resolve({ code, out, err })),
  )
  const says = async (pattern: RegExp) => {
    while (!pattern.test(err)) await new Promise((resolve) => child.stderr.once('data', resolve))
  }
  return { child, ended, says }
}

const generate = (args: readonly string[], root = ROOT) =>
  start(process.execPath, [...NODE, join(root, 'gpu-worker/cli/generate.ts'), ...args])

test('a picture and its sidecar are written, and nothing else', async () => {
  const { code, out, err } = await generate([...SMALL, '--out', 'new/a.webp']).ended
  expect(err).not.toContain('Error')
  expect(code).toBe(0)
  expect(readdirSync(join(dir, 'new'))).toEqual(['a.webp', 'a.webp.json'])
  expect(out).toContain(join(dir, 'new/a.webp.json'))
  const sidecar = JSON.parse(await readFile(join(dir, 'new/a.webp.json'), 'utf8'))
  expect(sidecar).toMatchObject({ prompt: 'x', size: '64x64', seed: 7, steps: 1 })
})

test('images are edited at their own size, and the sidecar names them', async () => {
  const first = await drawPicture(1, { width: 96, height: 64 })
  await writeFile(join(dir, 'one.png'), first)
  await writeFile(join(dir, 'two.jpg'), await drawPicture(2, { width: 64, height: 64 }, 'jpeg'))
  const edit = ['--prompt', 'x', '--steps', '1', '--seed', '7', '--threads', '1', ...MODEL]
  const images = ['--image', 'one.png', '--image', 'two.jpg']
  const run = generate([...edit, ...images, '--out', 'a.png'])
  const { code, err } = await run.ended
  expect(err).toMatch(/^images +\d\/4/)
  expect(code).toBe(0)
  const sidecar = JSON.parse(await readFile(join(dir, 'a.png.json'), 'utf8'))
  expect(sidecar).toMatchObject({ size: '96x64', tokens: 6 })
  const sha256 = createHash('sha256').update(first).digest('hex')
  expect(sidecar.images[0]).toEqual({ file: join(dir, 'one.png'), sha256 })
  expect(sidecar.images[1].file).toBe(join(dir, 'two.jpg'))
})

describe('what is wrong is found before a model is opened, and leaves nothing behind', () => {
  test.each<[string, string[], RegExp]>([
    ['a size that is not offered', ['--size', '100x100'], /^--size: width must be a multiple/],
    ['a negative guidance', ['--guidance', '-1'], /^--guidance must be a number from 0 to 20/],
    ['an empty prompt', ['--prompt', ''], /^--prompt must not be empty/],
    ['an image that is not there', ['--image', 'none.png'], /^--image: ENOENT.*none\.png/],
    ['a folder as an image', ['--image', 'b.png'], /^--image: EISDIR/],
    ['an image that is none', ['--image', 'f'], /^--image\[0\] must be a PNG, JPEG or WebP/],
    ['a folder that is no model', ['--model', '.'], /^--model: .*config\.json: file is missing/],
    ['a folder in the place of the picture', ['--out', 'b.png'], /^--out: .*b\.png is a folder/],
    ['one in the place of the sidecar', ['--out', 'c.png'], /^--out: .*c\.png\.json is a folder/],
    ['a folder that cannot be made', ['--out', '/proc/new/a.png'], /^--out: ENOENT/],
    ['a file in the place of a folder', ['--out', 'f/a.png'], /^--out: (EEXIST|ENOTDIR)/],
  ])('%s', async (_name, flags, reason) => {
    await mkdir(join(dir, 'b.png'))
    await mkdir(join(dir, 'c.png.json'))
    await writeFile(join(dir, 'f'), '')
    const before = readdirSync(dir)
    const { code, err } = await generate([...SMALL, '--out', 'a.png', ...flags]).ended
    expect(err).toMatch(reason)
    expect(code).toBe(2)
    expect(readdirSync(dir)).toEqual(before)
  })
})

test('a run that fails leaves the older picture as it was', async () => {
  const copies = await createCheckpointCopies()
  const model = await copies.fill(MODEL_DIR, 'transformer', 'proj_out.bias', NaN)
  await writeFile(join(dir, 'a.png'), 'older')
  const { code, err } = await generate([...SMALL, '--out', 'a.png', '--model', model]).ended
  await copies.remove()
  expect(code).toBe(1)
  expect(err).toContain('the model gave numbers that are not finite in stage denoise')
  expect(readdirSync(dir)).toEqual(['a.png'])
  expect(await readFile(join(dir, 'a.png'), 'utf8')).toBe('older')
})

test('an interrupt ends the run, the engine and the unfinished files', async () => {
  const { child, ended, says } = generate([...LARGE, '--out', 'a.png'])
  await says(/layout/)
  expect(readdirSync(dir)).toEqual(['a.png.json.partial', 'a.png.partial'])
  child.kill('SIGINT')
  expect((await ended).code).toBe(130)
  expect(readdirSync(dir)).toEqual([])
})

test('npm run writes to the folder of the caller', async () => {
  const flags = ['run', '-s', 'generate', '--prefix', ROOT, '--']
  const { code } = await start('npm', [...flags, ...SMALL, '--out', 'here.png']).ended
  expect(code).toBe(0)
  expect(readdirSync(dir)).toEqual(['here.png', 'here.png.json'])
})

test('a SIGTERM to npm alone ends the run too', async () => {
  const flags = ['run', '-s', 'generate', '--prefix', ROOT, '--']
  const { child, ended, says } = start('npm', [...flags, ...LARGE, '--out', 'a.png'])
  await says(/layout/)
  child.kill('SIGTERM')
  await ended
  expect(readdirSync(dir)).toEqual([])
})

test('the bundled model is found when the path of the program has a space', async () => {
  const root = join(dir, 'my programs')
  await cp(join(ROOT, 'gpu-worker'), join(root, 'gpu-worker'), { recursive: true })
  await cp(join(ROOT, 'package.json'), join(root, 'package.json'))
  await symlink(join(ROOT, 'node_modules'), join(root, 'node_modules'))
  expect((await generate([...BUNDLED, '--out', 'a.png'], root).ended).code).toBe(0)
  expect(existsSync(join(dir, 'a.png'))).toBe(true)
})
