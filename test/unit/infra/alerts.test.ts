import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import type { Pool } from '../../../db/client.ts'
import { createPrometheus } from '../../../edge/node/prometheus.ts'
import { createWorkerMetrics } from '../../../gpu-worker/metrics.ts'

const ROOT = resolve(import.meta.dirname, '../../..')
const RULES = join(ROOT, 'infra/prometheus/alerts.yml')
const NAME = /glyphpress_[a-z_]+/g

/** No figure is read here, so nothing is asked. */
const NO_POOL = { use: { calls: 0, maxConnections: 1 } } as Pool

function listFigures(): { name: string; type: string }[] {
  const registries = [
    createPrometheus(NO_POOL, { isSweeping: true }).registry,
    createWorkerMetrics({ pool: NO_POOL, slots: 1, busy: () => 0 }).registry,
  ]
  return registries
    .flatMap((registry) => registry.getMetricsAsArray())
    .filter(({ name }) => name.startsWith('glyphpress_'))
    .map(({ name, type }) => ({ name, type: String(type) }))
}

const figures = listFigures()
/** What a query can name. */
const series = new Set(
  figures.flatMap(({ name, type }) =>
    type === 'histogram' ? [`${name}_bucket`, `${name}_sum`, `${name}_count`] : [name],
  ),
)
const rules = readFileSync(RULES, 'utf8')
  .split(/^ {6}- alert: /m)
  .slice(1)
const runbooks = readFileSync(join(ROOT, 'infra/runbooks.md'), 'utf8')
const page = readFileSync(join(ROOT, 'infra/observe.md'), 'utf8')

describe('the rules', () => {
  test.each(rules.map((rule) => [rule.split('\n')[0] ?? '', rule]))(
    '%s names figures that are shown, and pages that exist',
    (_name, rule) => {
      const query = /^ {8}expr: (.*)$/m.exec(rule)?.[1] ?? ''
      const named = query.match(NAME) ?? []
      expect(query).toMatch(/glyphpress/)
      expect(named.filter((name) => name !== 'glyphpress' && !series.has(name))).toEqual([])
      const said = /^ {10}runbook: 'infra\/runbooks\.md: (.*)'$/m.exec(rule)?.[1] ?? ''
      const pages = [...runbooks.matchAll(/^## (.*)$/gm)].map((match) => match[1] ?? '')
      const isKnown = pages.some((title) => said.includes(title))
      expect(isKnown || said.includes('request_failed')).toBe(true)
      expect(rule).toMatch(/severity: (page|ticket) /)
    },
  )

  test('there are some', () => expect(rules.length).toBeGreaterThan(10))

  test('are rules to Prometheus itself', async ({ skip }) => {
    const checked = await promisify(execFile)('promtool', ['check', 'rules', RULES]).catch(
      (error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return null
        throw error
      },
    )
    if (checked === null) return skip('promtool is not installed (apt-get install prometheus)')
    expect(checked.stdout).toContain(`SUCCESS: ${rules.length} rules`)
  })
})

describe('the page for operators', () => {
  const tables = page.split('\n').filter((line) => line.startsWith('| `glyphpress_'))
  const told = new Set(tables.flatMap((line) => line.split('|')[1]?.match(NAME) ?? []))

  test('tells of every figure, and of none that is not shown', () => {
    expect([...told].toSorted()).toEqual([...new Set(figures.map(({ name }) => name))].toSorted())
  })

  test('names no series that does not exist', () => {
    const known = new Set([...series, ...figures.map(({ name }) => name)])
    expect((page.match(NAME) ?? []).filter((name) => !known.has(name))).toEqual([])
  })
})

test('names follow the rules of Prometheus: counters end in _total, times in _seconds', () => {
  const counters = figures.filter(({ type }) => type === 'counter').map(({ name }) => name)
  expect(counters.filter((name) => !name.endsWith('_total'))).toEqual([])
  const others = figures.filter(({ type }) => type !== 'counter').map(({ name }) => name)
  expect(others.filter((name) => name.endsWith('_total'))).toEqual([])
  expect(figures.filter(({ name }) => /_ms$|milliseconds|minutes/.test(name))).toEqual([])
})
