import type { Report } from './report.ts'
import { rowsOf } from './report-text.ts'

interface Line {
  readonly name: string
  readonly values: readonly (number | null)[]
  readonly color: string
}

const [WIDTH, HEIGHT] = [920, 220]
const [LEFT, RIGHT, TOP, BOTTOM] = [64, 12, 12, 28]
/** Told apart by most of those who see colours differently. */
const [BLUE, ORANGE, GREEN] = ['#0072b2', '#d55e00', '#009e73']

const STYLE = `body{font:15px/1.5 system-ui,sans-serif;max-width:960px;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:1.8rem 0 .3rem}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .8rem .25rem 0;border-bottom:1px solid #ddd}
th{font-weight:600;width:38%}code{font-size:.85rem;word-break:break-all}svg{width:100%;height:auto}
svg text{font:11px system-ui,sans-serif;fill:#555}.key span{margin-right:1.2rem}.key i{display:inline-block;width:1.2em;height:.25em;vertical-align:middle;margin-right:.4em}`

/** One page that needs nothing else: the figures, and the day as three plots. */
export function pageOf(report: Report, command: string): string {
  const { series } = report
  const rows = rowsOf(report).map(
    ([name, value]) => `<tr><th>${escape(name)}</th><td>${escape(value)}</td></tr>`,
  )
  const queue = [{ name: 'jobs that wait (most in the span)', values: series.waiting, color: BLUE }]
  const gpus = [
    { name: 'that run', values: series.running, color: BLUE },
    { name: 'of them at work', values: series.busy, color: GREEN },
    { name: 'that start', values: series.starting, color: ORANGE },
  ]
  const waits = [
    { name: 'p95', values: series.waitP95, color: ORANGE },
    { name: 'p50', values: series.waitP50, color: BLUE },
  ]
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Fleet simulation</title>
<style>${STYLE}</style></head><body>
<h1>Fleet simulation</h1>
<p><code>${escape(command)}</code></p>
<table>${rows.join('\n')}</table>
<h2>Queue length</h2>
${plot(queue, series.at)}
<h2>GPUs</h2>
${plot(gpus, series.at)}
<h2>Wait in seconds, by time of arrival</h2>
${plot(waits, series.at)}
</body></html>
`
}

function plot(lines: readonly Line[], at: readonly number[]): string {
  const most = Math.max(1, ...lines.flatMap(({ values }) => values.map((value) => value ?? 0)))
  const last = Math.max(1, at.at(-1) ?? 1)
  const toX = (seconds: number) => LEFT + (seconds / last) * (WIDTH - LEFT - RIGHT)
  const step = stepOf(most, 4)
  const top = Math.ceil(most / step) * step
  const toY = (value: number) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM)
  const key = lines.map(
    ({ name, color }) => `<span><i style="background:${color}"></i>${name}</span>`,
  )
  const paths = lines.map(
    ({ values, color }) =>
      `<path d="${pathOf(values, at, { toX, toY })}" fill="none" stroke="${color}" stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round"/>`,
  )
  return `<p class="key">${key.join('')}</p>
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img">${gridOf({ top, step, toY })}${hoursOf(last, toX)}${paths.join('')}</svg>`
}

function gridOf({ top, step, toY }: { top: number; step: number; toY: (value: number) => number }) {
  const count = Math.round(top / step)
  return Array.from({ length: count + 1 }, (_, index) => {
    const value = Number((index * step).toPrecision(6))
    const y = toY(value).toFixed(1)
    const line = `<line x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y}" y2="${y}" stroke="#ddd"/>`
    return `${line}<text x="${LEFT - 8}" y="${y}" dy="4" text-anchor="end">${value}</text>`
  }).join('')
}

function hoursOf(lastSeconds: number, toX: (seconds: number) => number): string {
  const step = stepOf(lastSeconds / 3_600, 8)
  const count = Math.floor(lastSeconds / 3_600 / step + 1e-9)
  return Array.from({ length: count + 1 }, (_, index) => {
    const hour = Number((index * step).toPrecision(6))
    const x = toX(hour * 3_600).toFixed(1)
    return `<text x="${x}" y="${HEIGHT - 8}" text-anchor="middle">${hour} h</text>`
  }).join('')
}

/** A round distance that makes about so many parts: 1, 2 or 5 and zeros. */
function stepOf(range: number, parts: number): number {
  const rough = range / parts
  const power = 10 ** Math.floor(Math.log10(rough))
  return ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10) * power
}

/** Broken where there is nothing to show. */
function pathOf(
  values: readonly (number | null)[],
  at: readonly number[],
  { toX, toY }: { toX: (seconds: number) => number; toY: (value: number) => number },
): string {
  let isPenUp = true
  const steps: string[] = []
  values.forEach((value, index) => {
    if (value === null) {
      isPenUp = true
      return
    }
    steps.push(`${isPenUp ? 'M' : 'L'}${toX(at[index] ?? 0).toFixed(1)} ${toY(value).toFixed(1)}`)
    isPenUp = false
  })
  // A single point is a stroke of no length, which round ends make a dot.
  return steps.map((step, index) => (isAlone(steps, index) ? `${step}h0` : step)).join('')
}

function isAlone(steps: readonly string[], index: number): boolean {
  return steps[index]?.startsWith('M') === true && steps[index + 1]?.startsWith('L') !== true
}

function escape(text: string): string {
  const names: Record<string, string> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }
  return text.replace(/[&<>"]/g, (sign) => names[sign] ?? sign)
}
