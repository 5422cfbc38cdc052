import type { Report, Waits } from './report.ts'

/** The figures as rows of name and value, for the terminal and the page alike. */
export function rowsOf(report: Report): [name: string, value: string][] {
  const { jobs, tenantCap, waits, turnaround, gpus, dollars } = report
  const others = [
    ['failed', jobs.failed],
    ['expired', jobs.expired],
    ['refused', jobs.refused],
  ] as const
  const ends = others.map(([name, count]) => `${count} ${name}`).join(', ')
  return [
    ['jobs', `${jobs.arrived} arrived, ${jobs.succeeded} succeeded, ${ends}`],
    ['cap of a tenant', tenantCap === null ? 'none' : `${tenantCap} unfinished jobs`],
    ['retries, lost jobs', `${jobs.retries}, ${jobs.lost}`],
    ['wait, all', toText(waits.all)],
    [`wait, loudest (${waits.loudest.tenant})`, toText(waits.loudest)],
    [`wait, quietest (${waits.quietest.tenant})`, toText(waits.quietest)],
    ['wait, quieter half of tenants', toText(waits.quietHalf)],
    ['to the picture, all', toText(turnaround)],
    ['utilisation', `${(gpus.utilisation * 100).toFixed(1)} % of ${gpus.paidHours} GPU-hours`],
    ['GPUs', `at most ${gpus.most}, ${gpus.launches} launches`],
    [
      'lost GPU-seconds',
      `${gpus.lostSeconds} (${gpus.spotNotices} notices, ${gpus.crashes} crashes)`,
    ],
    ['cost', `$${dollars.total.toFixed(2)}, at most $${dollars.mostPerHour.toFixed(2)} an hour`],
    ['cost per image', dollars.perImage === null ? 'none' : `$${dollars.perImage.toFixed(4)}`],
  ]
}

function toText({ jobs, p50, p95, p99 }: Waits): string {
  const [half, most, nearlyAll] = [p50, p95, p99].map((seconds) => `${seconds.toFixed(1)} s`)
  return `p50 ${half}, p95 ${most}, p99 ${nearlyAll} (${jobs} jobs)`
}
