import { toWords } from '../../db/text-words.ts'
import { REFERENCES } from './reference.ts'
import type { EvalItem, EvalReport } from './report.ts'
import type { Score } from './score.ts'

const STYLE = `body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.4rem;margin-bottom:.3rem}h2{font-size:1.05rem;margin:1.8rem 0 .4rem}
table{border-collapse:collapse}th,td{text-align:right;padding:.2rem .9rem .2rem 0;border-bottom:1px solid #ddd}
td.text{text-align:left}th{font-weight:600}td:first-child,th:first-child{text-align:left}tr.own{font-weight:700;background:#eef5fb}
.note{color:#555;max-width:70ch}.warn{background:#fff4e0;border-left:4px solid #d55e00;padding:.5rem .8rem;max-width:70ch}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:1rem}
figure{margin:0;border:1px solid #ddd;padding:.6rem;border-radius:6px;font-size:.85rem}
figure img{width:100%;height:auto;display:block;background:#eee}figure p{margin:.35rem 0;overflow-wrap:anywhere}
.missing{background:#fbd9d3;text-decoration:underline}.id{color:#555}.bad{border-color:#d55e00}`

/** One page beside the folder of pictures: the figures, the published ones, and every picture with what was read. */
export function pageOf(report: EvalReport): string {
  const { suite, overall, protocol, ocr } = report
  const about = [
    ['model', report.model],
    ['target', report.target],
    ...(report.weightsHash === null ? [] : [['weights', report.weightsHash]]),
    ['prompts', report.prompts.join(', ')],
    ['pictures', `${report.items.length} of ${report.wished}, ${report.failed} failed`],
    ['read by', `${ocr.engine} ${ocr.version}`],
    [
      'median time',
      `${seconds(report.medianDrawMs)} to draw, ${seconds(report.medianReadMs)} to read`,
    ],
    ['run', `${report.startedAt} to ${report.endedAt}`],
  ].map(
    ([name = '', value = '']) =>
      `<tr><th>${escape(name)}</th><td class="text">${escape(value)}</td></tr>`,
  )
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Text in pictures: ${suite}</title>
<style>${STYLE}</style></head><body>
<h1>Text in pictures: ${suite}</h1>
<p><b>Word accuracy ${share(overall.accuracy)}</b>${overall.ned === null ? '' : `, NED ${share(overall.ned)}`}, over ${overall.words} words of ${overall.pictures} pictures</p>
${warningsOf(report)}
<p class="note">${escape(protocol.name)}${protocol.differs === null ? '' : ` <b>Differs from the published one:</b> ${escape(protocol.differs)}`}</p>
<table>${about.join('\n')}</table>
<h2>By number of texts</h2>
${groupTable('texts', report.byRegions)}
<h2>By language</h2>
${groupTable('language', report.byLanguage)}
${referenceTable(report)}
<h2>Pictures</h2>
<div class="grid">${report.items.map(figureOf).join('\n')}</div>
</body></html>
`
}

/** Below it the pictures show no legible text, whatever the reason. */
const NOISE_ACCURACY = 0.05

function warningsOf(report: EvalReport): string {
  const { overall, isPublishedSet, suite, notice } = report
  const warnings = [
    ...(notice === null ? [] : [`The model says of itself: ${notice}`]),
    ...(overall.accuracy !== null && overall.accuracy < NOISE_ACCURACY
      ? ['Next to nothing was read: these pictures hold no legible text.']
      : []),
    ...(isPublishedSet || suite === 'ours'
      ? []
      : [
          'These are the sample prompts of this project, not the published set: the figures below are for orientation only.',
        ]),
    ...(report.items.length < report.wished
      ? ['The run is not complete; the same command goes on with it.']
      : []),
  ]
  return warnings.map((text) => `<p class="warn">${escape(text)}</p>`).join('\n')
}

function groupTable(name: string, groups: EvalReport['byRegions']): string {
  const rows = groups.map(
    ({ group, score }) => `<tr><td>${escape(group)}</td>${cellsOf(score)}</tr>`,
  )
  return `<table><tr><th>${name}</th><th>pictures</th><th>words</th><th>accuracy</th><th>NED</th></tr>${rows.join('\n')}</table>`
}

function cellsOf({ pictures, words, accuracy, ned }: Score): string {
  return [pictures, words, share(accuracy), share(ned)].map((cell) => `<td>${cell}</td>`).join('')
}

function referenceTable(report: EvalReport): string {
  const reference = REFERENCES[report.suite]
  if (reference === null) return ''
  const groups = report.suite === 'cvtg2k' ? report.byRegions : report.byLanguage
  const own = {
    model: `${report.model} (this run)`,
    parts: reference.parts.map(
      (part) => groups.find(({ group }) => group === part)?.score.accuracy ?? null,
    ),
    average: report.overall.accuracy ?? 0,
    ned: report.overall.ned,
    isOwn: true,
  }
  const rows = [...reference.rows.map((row) => ({ ...row, isOwn: false })), own]
    .toSorted((a, b) => b.average - a.average)
    .map(({ model, parts, average, ned, isOwn }) => {
      const cells = [...parts, average, ned].map((value) => `<td>${share(value)}</td>`).join('')
      return `<tr${isOwn ? ' class="own"' : ''}><td>${escape(model)}</td>${cells}</tr>`
    })
  const heads = [...reference.parts, 'all', 'NED'].map((name) => `<th>${name}</th>`).join('')
  return `<h2>Beside published figures</h2>
<p class="note">Word accuracy, ${escape(reference.source)}.</p>
<table><tr><th>model</th>${heads}</tr>${rows.join('\n')}</table>`
}

function figureOf(item: EvalItem): string {
  const { id, picture, expected, read, tally, error } = item
  const isRight = tally.found === tally.expected
  const shown =
    picture === null
      ? ''
      : `<img loading="lazy" src="${escape(picture)}" alt="${escape(item.prompt)}" title="${escape(item.prompt)}">`
  const known = new Set(read.flatMap(toWords))
  return `<figure${isRight ? '' : ' class="bad"'}>${shown}
<p class="id">${escape(id)}: ${tally.found} of ${tally.expected}${error === null ? '' : `, ${escape(error)}`}</p>
<p><b>expected</b> ${expected.map((text) => marked(text, known)).join(' · ')}</p>
<p><b>read</b> ${read.length === 0 ? '<i>nothing</i>' : read.map(escape).join(' · ')}</p></figure>`
}

/** The text with those of its words marked that were not read. */
function marked(text: string, known: ReadonlySet<string>): string {
  return text
    .split(/(\s+)/u)
    .map((part) => {
      const isRead = toWords(part).every((word) => known.has(word))
      return isRead ? escape(part) : `<span class="missing">${escape(part)}</span>`
    })
    .join('')
}

function share(value: number | null): string {
  return value === null ? '–' : value.toFixed(4)
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(1)} s`
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
}

function escape(text: string): string {
  return text.replaceAll(/[&<>"]/g, (sign) => ENTITIES[sign] ?? sign)
}
