import type { Backlog } from '../../db/backlog.ts'
import { SIZE_CLASSES } from '../../db/size-classes.ts'
import type { Work } from './scaling-policy.ts'

/** The waiting part of the books as the policy reads it. */
export function workOf(backlog: Backlog, priority: 'standard' | 'batch'): Work[] {
  const waiting = backlog.groups.filter(
    (group) => group.phase === 'waiting' && group.priority === priority,
  )
  return waiting.map(({ sizeClass, jobs, images }) => {
    const known = SIZE_CLASSES[sizeClass]
    if (!known) throw new RangeError(`there is no size class ${sizeClass}`)
    return { sizeClass: known.name, jobs, gpuSeconds: images * known.meanSeconds }
  })
}
