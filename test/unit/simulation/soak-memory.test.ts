import { expect, test } from 'vitest'
import { summarizeMemory } from '../../simulation/soak-memory.ts'
import type { Lives, MemoryOfPart, MemorySample } from '../../simulation/soak-memory.ts'

/** Forty minutes, the later half without kills, a sample each half minute. */
const MINUTES = 40
const QUIET_AT_MS = (MINUTES / 2) * 60_000

/** A connection that is open between these minutes, of this size when it is so many minutes old. */
function connection(from: number, to: number, mibAt: (age: number) => number): MemorySample[] {
  const times = Array.from({ length: 2 * (to - from) }, (_, index) => from + index / 2)
  return times.map((minute) => ({ atMs: minute * 60_000, mib: mibAt(minute - from) }))
}

/** Grows fast and then no more, as plans are made and kept. */
const warm = (age: number) => 9 - 6 * Math.exp(-age)

function databaseOf(connections: readonly MemorySample[][]): MemoryOfPart {
  const server = connection(0, MINUTES, () => 3)
  const lives: Lives = new Map(
    [server, ...connections].map((life, index) => [`database ${index}` as const, life]),
  )
  const [database] = summarizeMemory(lives, QUIET_AT_MS)
  if (!database) throw new Error('nothing was measured of it')
  return database
}

/** Pools are small while clients are killed each minute, and fill when they are left alone. */
const amidKills = Array.from({ length: 20 }, (_, minute) => connection(minute, minute + 1, warm))
const leftAlone = [20, 20, 20, 21, 21, 22, 24, 28, 33, 37].map((from) =>
  connection(from, MINUTES, warm),
)

test('pools that fill after the kills are no growth of the database', () => {
  const found = databaseOf([...amidKills, ...leftAlone])
  // The server and the connections that were there three minutes after the last kill.
  expect(found).toMatchObject({ part: 'database', lives: 7, isFlat: true })
  expect(found.lastMib).toBeGreaterThan(55)
  expect(found.maxMib).toBeGreaterThan(found.lastMib)
})

test('connections that go on growing are a growth of the database, however many there are', () => {
  const leaking = (age: number) => warm(age) + 0.2 * age
  const found = databaseOf([
    ...amidKills,
    ...leftAlone.map((life) =>
      connection((life[0]?.atMs ?? 0) / 60_000, MINUTES, (age) => leaking(age)),
    ),
  ])
  expect(found).toMatchObject({ isFlat: false })
  expect(found.slopeMibPerHour).toBeGreaterThan(60)
})

test('a growth of the server beside its connections is one of the database', () => {
  const writer = connection(0, MINUTES, (age) => 1 + 2 * age)
  expect(databaseOf([...leftAlone, writer])).toMatchObject({ isFlat: false })
})

test('a database of which nothing outlived the quiet time is not held to be flat', () => {
  const lives: Lives = new Map([
    ['database 1', connection(0, 30, warm)],
    ['database 2', connection(30, MINUTES, warm)],
  ])
  expect(summarizeMemory(lives, QUIET_AT_MS)).toMatchObject([{ lives: 0, isFlat: false }])
})

test('a quiet time of a few minutes says nothing of the database', () => {
  const lives: Lives = new Map([['database 1', connection(0, 10, warm)]])
  expect(summarizeMemory(lives, 5 * 60_000)).toMatchObject([{ isFlat: null }])
})

test('of the other parts the longest life is held against itself', () => {
  const lives: Lives = new Map([
    ['gateway 1', connection(0, 5, () => 200)],
    ['gateway 2', connection(5, MINUTES, (age) => 150 + age)],
    ['engine 3', connection(0, MINUTES, () => 340)],
  ])
  expect(summarizeMemory(lives, QUIET_AT_MS)).toMatchObject([
    { part: 'gateway', lives: 2, isFlat: false },
    { part: 'engine', lives: 1, isFlat: true },
  ])
})
