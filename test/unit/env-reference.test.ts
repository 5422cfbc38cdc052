import { readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { format } from 'prettier'
import { expect, test } from 'vitest'
import { envReference } from '../support/env-reference.ts'

const ROOT = resolve(import.meta.dirname, '../..')
const FILE = join(ROOT, 'infra/environment.md')
const UNITS = ['gateway', 'sweep', 'worker'] as const

test('the reference names every variable as its schema has it', async () => {
  const made = await format(envReference(), { parser: 'markdown', printWidth: 100 })
  if (process.env.UPDATE_ENV === '1') writeFileSync(FILE, made)
  expect(readFileSync(FILE, 'utf8')).toBe(made)
  for (const name of ['DATABASE_URL', 'SQS_BATCH_QUEUE_URL', 'METRIC_NAMESPACE', 'SWEEP', 'IMDS'])
    expect(made).toContain(`\`${name}\``)
})

test.each(UNITS)('the unit of the %s runs what npm run does, and waits for its stop', (name) => {
  const unit = readFileSync(join(ROOT, `infra/systemd/glyphpress-${name}.service`), 'utf8')
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    scripts: Record<string, string>
  }
  const line = /^ExecStart=\/opt\/glyphpress\/node_modules\/\.bin\/(.*)$/m.exec(unit)?.[1]
  expect(line).toBe(scripts[name])
  expect(Number(/^TimeoutStopSec=(\d+)$/m.exec(unit)?.[1])).toBeGreaterThanOrEqual(10)
  expect(unit).toContain('NoNewPrivileges=true')
})
