/** For screens and for paper (A4 or Letter): no outside fonts, heads of tables repeat on every page. */
export const STATEMENT_CSS = `:root { color-scheme: light; --ink: #1b1f24; --soft: #5b6570; --line: #d5dae0; --wash: #f4f6f8; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 2rem; color: var(--ink); background: #fff;
  font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.brand { margin: 0; color: var(--soft); font-weight: 600; letter-spacing: .04em; }
h1 { margin: .2rem 0 1rem; font-size: 1.7rem; line-height: 1.2; }
h2 { margin: 2rem 0 .5rem; font-size: 1.05rem; break-after: avoid; }
.state { display: inline-block; margin-left: .4rem; padding: .1rem .55rem; border: 1px solid #2b7a4b; border-radius: 1rem;
  color: #1f6b3f; font-size: .8rem; font-weight: 600; vertical-align: middle; }
.state.preview { border-color: #9a6a00; color: #7d5600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.due { margin: .2rem 0 .8rem; font-size: 1.1rem; }
.due strong { font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.note { margin: 0 0 .5rem; color: var(--soft); }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
tbody th, tfoot th { font-weight: 400; }
thead th { border-bottom: 1.5px solid var(--ink); color: var(--soft); font-size: .82rem; font-weight: 600; }
.n { width: 6rem; padding-right: 0; padding-left: .6rem; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tfoot th, tfoot td { border-bottom: 0; border-top: 1.5px solid var(--ink); font-weight: 700; }
tr.part th { padding-left: 1rem; }
tr.part { color: var(--soft); }
footer { margin-top: 2.5rem; padding-top: .8rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .82rem; }
footer p { margin: .2rem 0; }
code { overflow-wrap: anywhere; }
@page { size: auto; margin: 16mm 14mm; }
@media print {
  body { max-width: none; padding: 0; font-size: 9.5pt; }
  thead { display: table-header-group; }
  tfoot { display: table-row-group; }
  tr { break-inside: avoid; }
  footer { break-inside: avoid; }
}
@media (max-width: 44rem) {
  body { padding: 1.2rem 1rem; }
  section { overflow-x: auto; }
}
`
