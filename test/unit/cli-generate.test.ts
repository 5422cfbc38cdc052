import { existsSync } from 'node:fs'
import { join } from 'node:path'

import { expect, test } from 'vitest'

import { parseArguments } from '../../gpu-worker/cli/generate-arguments.ts'
import { createProgressDisplay } from '../../gpu-worker/cli/progress.ts'
import type { Progress } from '../../gpu-worker/pipeline/image-request.ts'

const parse = (...flags: string[]) => parseArguments(['--prompt', 'x', ...flags], '/home/me')
const messageOf = (...flags: string[]) => {
  try {
    parse(...flags)
    return 'accepted'
  } catch (error) {
    return (error as Error).message
  }
}

test('the format follows the file name, and no two pictures share a sidecar', () => {
  expect(parse('--out', '/a/b.c.JPG')).toMatchObject({
    format: 'jpeg',
    out: '/a/b.c.JPG',
    sidecar: '/a/b.c.JPG.json',
  })
  expect(parse('--out', '/a/package.png')).toMatchObject({ sidecar: '/a/package.png.json' })
  expect(parse('--format', 'jpeg')).toMatchObject({ out: '/home/me/image.jpg' })
})

test('paths are relative to the folder of the caller, and the bundled model to the program', () => {
  expect(parse('--out', 'a/b.png', '--model', '../m')).toMatchObject({
    out: '/home/me/a/b.png',
    engine: { modelDir: '/home/m' },
  })
  expect(parse()).toMatchObject({ out: '/home/me/image.png' })
  const options = parse()
  if (options === 'help') throw new Error('no help was asked for')
  expect(existsSync(join(options.engine.modelDir, 'serving.json'))).toBe(true)
})

test('images keep the order in which they are given', () => {
  expect(parse('--image', 'b.png', '--image=/c.jpg', '--image', '../a.webp')).toMatchObject({
    images: ['/home/me/b.png', '/c.jpg', '/home/a.webp'],
  })
})

test('numbers are read as numbers and absent flags stay absent', () => {
  const options = parse('--seed', '7', '--steps', '20', '--guidance', '1.5', '--size', '64x96')
  expect(options).toMatchObject({ seed: 7, steps: 20, guidanceScale: 1.5, size: '64x96' })
  expect(parse('--guidance', '-1')).toMatchObject({ guidanceScale: -1 })
  expect(parse('--prompt', '- a list')).toMatchObject({ prompt: '- a list' })
  expect(Object.keys(parse())).toEqual(['prompt', 'images', 'format', 'out', 'sidecar', 'engine'])
})

test.each([
  ['--size', 'large'],
  ['--seed', 'seven'],
  ['--seed', '0x10'],
  ['--seed', '1e3'],
  ['--guidance', 'Infinity'],
  ['--guidance', '.5'],
  ['--steps', ' 5'],
  ['--steps', ''],
  ['--out', 'a.gif'],
  ['--format', 'bmp'],
  ['--threads', '0'],
  ['--provider', 'tpu'],
  ['--unknown', '1'],
])('a wrong %s is refused by name: %j', (flag, value) => {
  expect(messageOf(flag, value)).toContain(flag)
  expect(messageOf(flag, value)).not.toContain('ambiguous')
})

test('a flag without its value is refused by name', () => {
  expect(messageOf('--seed')).toContain('--seed')
  expect(messageOf('--seed', '--steps', '3')).toContain('--seed')
})

function display(isTTY: boolean, events: Progress[]): string {
  let text = ''
  const stream = {
    isTTY,
    write: (part: string | Uint8Array) => {
      text += String(part)
      return true
    },
  }
  const shown = createProgressDisplay(stream, () => 0)
  for (const event of events) shown.show(event)
  shown.end()
  shown.end()
  return text
}
const EVENTS: Progress[] = [
  ...Array.from({ length: 9 }, (_, step) => ({ stage: 'denoise', step, total: 8 }) as const),
  { stage: 'decode', step: 1, total: 1 },
]

test('a terminal gets one redrawn line per stage', () => {
  const text = display(true, EVENTS)
  expect(text.split('\n')).toHaveLength(3)
  expect(text).toContain(`${'█'.repeat(15)}${'░'.repeat(15)}       4/8`)
  expect(text.endsWith('0.0 s\n')).toBe(true)
})

test('a file gets a line per quarter and no control characters', () => {
  const lines = display(false, EVENTS).split('\n')
  expect(lines.map((line) => line.split(/\s+/)[1])).toEqual([
    '2/8',
    '4/8',
    '6/8',
    '8/8',
    '1/1',
    undefined,
  ])
  // oxlint-disable-next-line no-control-regex
  expect(lines.join('')).not.toMatch(/[\r\u001b]/)
})
