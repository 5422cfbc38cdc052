import { expect, test } from 'vitest'

import { parseArguments } from '../../gpu-worker/cli/generate-arguments.ts'
import { createProgressDisplay } from '../../gpu-worker/cli/progress.ts'
import type { Progress } from '../../gpu-worker/pipeline/glm-image.ts'

const parse = (...flags: string[]) => parseArguments(['--prompt', 'x', ...flags])
const messageOf = (...flags: string[]) => {
  try {
    parse(...flags)
    return 'accepted'
  } catch (error) {
    return (error as Error).message
  }
}

test('the format follows the file name and the sidecar lies beside the picture', () => {
  expect(parse('--out', 'a/b.c.JPG')).toMatchObject({ format: 'jpeg', sidecar: 'a/b.c.json' })
  expect(parse()).toMatchObject({ format: 'png', out: 'image.png', sidecar: 'image.json' })
  expect(parse('--format', 'jpeg')).toMatchObject({ out: 'image.jpg' })
})

test('numbers are read as numbers and absent flags stay absent', () => {
  const options = parse('--seed', '7', '--steps', '20', '--guidance', '1.5', '--size', '64x96')
  expect(options).toMatchObject({ seed: 7, steps: 20, guidanceScale: 1.5, size: '64x96' })
  expect(Object.keys(parse())).toEqual(['prompt', 'format', 'out', 'sidecar', 'engine'])
})

test.each([
  ['--size', 'large'],
  ['--seed', 'seven'],
  ['--steps', ''],
  ['--out', 'a.gif'],
  ['--format', 'bmp'],
  ['--threads', '0'],
  ['--provider', 'tpu'],
  ['--unknown', '1'],
])('a wrong %s is refused by name', (flag, value) => {
  expect(messageOf(flag, value)).toContain(flag)
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
