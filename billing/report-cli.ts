import { parseArgs } from 'node:util'
import { closeDatabase, openDatabase } from '../db/client.ts'
import { parseAmount, readDatabaseUrl, readInstant } from './command-line.ts'
import { MARGIN_GROUPS, reportMargin } from './margin.ts'
import type { MarginRow } from './margin.ts'
import { formatUsd } from './money.ts'

const USAGE = `Usage: npm run report -- --from 2026-11-01 --to 2026-12-01 --gpu-hour-usd 6.88 [--by GROUP] [--json]

GPU time, cost, revenue and margin of the jobs that finished from --from to before --to (UTC), by
${MARGIN_GROUPS.join(', ')}. Reads DATABASE_URL. Idle time of a GPU is in no figure.`

function readOptions() {
  const { values } = parseArgs({
    options: {
      from: { type: 'string' },
      to: { type: 'string' },
      by: { type: 'string', default: 'size' },
      'gpu-hour-usd': { type: 'string' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) return null
  const by = MARGIN_GROUPS.find((group) => group === values.by)
  if (!by) throw new Error(`--by must be one of ${MARGIN_GROUPS.join(', ')}, not "${values.by}"`)
  const rate = parseAmount(values['gpu-hour-usd'] ?? '')
  if (rate === null) {
    throw new Error('--gpu-hour-usd must be US dollars of one hour of a GPU, such as 6.88')
  }
  const [from, to] = [readInstant('--from', values.from), readInstant('--to', values.to)]
  if (from >= to) throw new Error('--to must be after --from')
  const url = readDatabaseUrl(process.env.DATABASE_URL)
  return { url, by, from, to, gpuHourMicros: rate, isJson: values.json }
}

/** One row as people read it; per image where there is one. */
function toRecord(row: MarginRow) {
  const perImage = (amount: bigint) => (row.images === 0n ? null : formatUsd(amount / row.images))
  return {
    group: row.group,
    jobs: Number(row.jobs),
    images: Number(row.images),
    free_images: Number(row.freeImages),
    gpu_seconds: Number(row.gpuMs) / 1000,
    gpu_seconds_per_image:
      row.images === 0n ? null : Math.round(Number(row.gpuMs) / Number(row.images)) / 1000,
    revenue: formatUsd(row.revenueMicros),
    cost: formatUsd(row.costMicros),
    margin: formatUsd(row.marginMicros),
    cost_per_image: perImage(row.costMicros),
    margin_per_image: perImage(row.marginMicros),
  }
}

async function main(): Promise<void> {
  const options = readOptions()
  if (!options) {
    console.log(USAGE)
    return
  }
  const db = openDatabase(options.url, { maxConnections: 1, applicationName: 'glyphpress-report' })
  try {
    const records = (await reportMargin(db, options)).map(toRecord)
    if (options.isJson) console.log(JSON.stringify(records, null, 2))
    else if (records.length === 0) console.log('No job finished in this span.')
    else console.table(Object.fromEntries(records.map(({ group, ...rest }) => [group, rest])))
  } finally {
    await closeDatabase(db)
  }
}

try {
  await main()
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exitCode = 1
}
