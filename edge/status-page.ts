import { COMPONENTS } from './service-status.ts'
import type { Component, ComponentName, ServiceStatus } from './service-status.ts'

const TITLES: Record<ComponentName, string> = {
  api: 'API',
  database: 'Database',
  queue: 'Queue',
  workers: 'Workers',
  webhooks: 'Webhooks',
  billing: 'Billing',
}

const HEADLINES: Record<ServiceStatus['status'], string> = {
  operational: 'All parts work',
  degraded: 'Some parts are slow',
  outage: 'A part is out',
}

/** How each figure is said; one that is not known is left out. */
const FIGURES: Record<string, (value: number) => string> = {
  oldest_unsent_seconds: (seconds) => `a job waits ${span(seconds)} to be queued`,
  response_ms: (ms) => `answers in ${ms} ms`,
  waiting: (jobs) => `${jobs} waiting`,
  oldest_wait_seconds: (seconds) => `oldest ${span(seconds)}`,
  median_wait_seconds: (seconds) => `usual wait ${span(seconds)}`,
  seen: (workers) => `${workers} at work or ready`,
  running: (jobs) => `${jobs} ${jobs === 1 ? 'job' : 'jobs'} running`,
  due: (deliveries) => `${deliveries} due`,
  oldest_due_seconds: (seconds) => `oldest ${span(seconds)}`,
  ledger_lag_seconds: (seconds) => `balances ${span(seconds)} behind`,
  report_lag_seconds: (seconds) => `reports ${span(seconds)} behind`,
}

const CSS = `:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d5dae0; --page: #fff;
  --operational: #1f6b3f; --degraded: #7d5600; --outage: #a8202a; --unknown: #5b6570; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #343b43; --page: #14171b;
  --operational: #6cc48c; --degraded: #e3b341; --outage: #ff8a80; --unknown: #9aa4af; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 40rem; padding: 2.5rem 1.25rem; color: var(--ink); background: var(--page);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.brand { margin: 0; color: var(--soft); font-weight: 600; letter-spacing: .04em; }
h1 { margin: .2rem 0 1.5rem; font-size: 1.6rem; line-height: 1.25; }
ul { margin: 0; padding: 0; list-style: none; border-top: 1px solid var(--line); }
li { padding: .7rem 0; border-bottom: 1px solid var(--line); }
.head { display: flex; justify-content: space-between; gap: 1rem; font-weight: 600; }
.about { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere; }
.operational { color: var(--operational); } .degraded { color: var(--degraded); }
.outage { color: var(--outage); } .unknown { color: var(--unknown); }
footer { margin-top: 1.5rem; color: var(--soft); font-size: .85rem; }
`

/** The state of the service for people: one page without scripts that loads itself anew every half minute. */
export function statusPage({ status, checkedAt, components }: ServiceStatus): string {
  const rows = COMPONENTS.map((name) => row(TITLES[name], components[name], checkedAt))
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="30">
<title>${HEADLINES[status]} - Glyphpress status</title>
<style>${CSS}</style>
</head>
<body>
<p class="brand">Glyphpress</p>
<h1 class="${status}">${HEADLINES[status]}</h1>
<ul>
${rows.join('\n')}
</ul>
<footer>Seen at <time datetime="${checkedAt.toISOString()}">${clock(checkedAt)}</time>. For machines the same address answers in JSON.</footer>
</body>
</html>
`
}

function row(title: string, { status, lastSuccessAt, figures }: Component, at: Date): string {
  const said = Object.entries(figures).flatMap(([name, value]) =>
    value === null ? [] : [FIGURES[name]?.(value) ?? `${name} ${value}`],
  )
  const isPast = lastSuccessAt !== null && at.getTime() - lastSuccessAt.getTime() > 1_000
  const last = isPast ? [`last success ${clock(lastSuccessAt)}`] : []
  const about = [...said, ...last].join(', ')
  return `<li><div class="head"><span>${title}</span><span class="${status}">${status}</span></div>${
    about === '' ? '' : `<div class="about">${about}</div>`
  }</li>`
}

/** `2026-11-30 02:45:10 UTC`. */
function clock(date: Date): string {
  return `${date.toISOString().slice(0, 19).replace('T', ' ')} UTC`
}

function span(seconds: number): string {
  if (seconds < 90) return `${Math.round(seconds)} s`
  const minutes = Math.round(seconds / 60)
  return minutes < 90 ? `${minutes} min` : `${Math.round(minutes / 60)} h`
}
