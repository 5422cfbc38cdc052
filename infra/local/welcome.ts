/** What is shown when everything runs, with a line to paste. */
export function welcome(about: {
  address: string
  /** Null when it was shown at an earlier start. */
  key: string | null
  notice: string | null
  logDir: string
  /** Addresses of figures for Prometheus. */
  metrics: readonly string[]
}): string {
  const bearer = about.key === null ? `'"$GLYPHPRESS_KEY"` : `${about.key}'`
  return [
    '',
    `Glyphpress runs at ${about.address}`,
    about.key === null
      ? '  API key   shown at the first start; put it into GLYPHPRESS_KEY, or get another with --new-key'
      : `  API key   ${about.key}   (shown this once, stored as a hash)`,
    `  logs      ${about.logDir}`,
    `  status    ${about.address}/v1/status`,
    `  metrics   ${about.metrics.join(', ')}`,
    ...(about.notice === null ? [] : [`  model     ${about.notice}`]),
    '',
    'Draw a picture:',
    '',
    `curl -sS ${about.address}/v1/images/generations -H 'Authorization: Bearer ${bearer} -H 'Content-Type: application/json' -d '{"prompt":"A navy poster with the title \\"GRAND OPENING\\""}'`,
    '',
    'Ctrl-C stops everything.',
  ].join('\n')
}
