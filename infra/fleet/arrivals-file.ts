import type { Arrival } from './arrivals.ts'
import { SIZE_CLASSES } from '../../db/size-classes.ts'

const HEADER = 'seconds,tenant,size'
/** As the queue allows for the name of a group. */
const TENANT = /^[\w.@:-]{1,128}$/
const SIZES = SIZE_CLASSES.map(({ name }) => name)

/**
 * Reads arrivals from a file of the columns `seconds,tenant,size`, in any order of time.
 *
 * @throws naming the line and the rule that it breaks
 */
export function readArrivals(text: string): Arrival[] {
  const lines = text.split(/\r?\n/)
  if (lines.at(-1) === '') lines.pop()
  if (lines[0] !== HEADER) throw new Error(`line 1: must be the header ${HEADER}`)
  if (lines.length === 1) throw new Error('line 2: there must be at least one job')
  return lines.slice(1).map((line, index) => readLine(line, index + 2))
}

function readLine(line: string, number: number): Arrival {
  const refuse = (rule: string) => new Error(`line ${number}: ${rule}`)
  const fields = line.split(',')
  const [seconds = '', tenant = '', size = ''] = fields
  if (fields.length !== 3) throw refuse(`must have 3 fields (${HEADER}), not ${fields.length}`)
  if (!/^\d+(\.\d+)?$/.test(seconds)) {
    throw refuse(`seconds must be a number from 0, such as 12.5, not "${seconds}"`)
  }
  if (!TENANT.test(tenant)) {
    throw refuse(`tenant must be 1 to 128 letters, digits or _.@:-, not "${tenant}"`)
  }
  if (!SIZES.includes(size)) throw refuse(`size must be one of ${SIZES.join(', ')}, not "${size}"`)
  return { seconds: Number(seconds), tenant, size: SIZES.indexOf(size) }
}
