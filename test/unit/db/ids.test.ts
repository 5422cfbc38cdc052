import { expect, test, vi } from 'vitest'
import { deriveSecret } from '../../../db/derive.ts'
import { ID_PREFIXES, createId, isId, timeOfId } from '../../../db/ids.ts'
import type { IdKind } from '../../../db/ids.ts'
import { TRANSITIONS, canTransition, isTerminal } from '../../../db/job-state.ts'

test('every kind of id has its prefix, has the form that is checked, and is not that of another kind', () => {
  const kinds = Object.keys(ID_PREFIXES) as IdKind[]
  for (const kind of kinds) {
    const id = createId(kind)
    expect(kinds.filter((other) => isId(other, id))).toEqual([kind])
  }
  expect(new Set(Object.values(ID_PREFIXES)).size).toBe(kinds.length)
  for (const text of [
    'job_',
    `job_${'I'.repeat(26)}`,
    `${createId('job')}x`,
    `x${createId('job')}`,
  ]) {
    expect(isId('job', text)).toBe(false)
  }
})

test('ids sort by the time they were made, and tell it', () => {
  vi.useFakeTimers()
  try {
    const ids = [0, 1, 31, 32, 1e12, 1.8e12, 2 ** 45].map((time) => {
      vi.setSystemTime(time)
      const id = createId('job')
      expect(timeOfId(id).getTime()).toBe(time)
      return id
    })
    expect(ids.toSorted()).toEqual(ids)
  } finally {
    vi.useRealTimers()
  }
})

test('a hundred thousand ids of one moment are all different', () => {
  expect(new Set(Array.from({ length: 100_000 }, () => createId('key'))).size).toBe(100_000)
})

test('derived secrets differ by label and by pepper and are the same every time', async () => {
  const secret = await deriveSecret('pepper', 'internal')
  expect(secret).toMatch(/^[0-9a-f]{64}$/)
  expect(await deriveSecret('pepper', 'internal')).toBe(secret)
  expect(await deriveSecret('pepper', 'url-signing')).not.toBe(secret)
  expect(await deriveSecret('another', 'internal')).not.toBe(secret)
})

test('nothing follows a terminal state', () => {
  const states = Object.keys(TRANSITIONS) as (keyof typeof TRANSITIONS)[]
  const terminal = states.filter(isTerminal)
  expect(terminal).toEqual(['succeeded', 'failed', 'canceled', 'expired'])
  for (const from of terminal) expect(states.filter((to) => canTransition(from, to))).toEqual([])
})
