import { describeMachine } from '../support/machine.ts'
import { DATABASE_FAULTS } from './fault-plan.ts'
import type { SimulationResult } from './simulate.ts'
import type { WorldsResult } from './run-worlds.ts'

export type FaultReport = ReturnType<typeof createReport>

/** Every cell of point and kind should have at least this many. */
const WANTED_PER_CELL = 100

/** What a run of the harness says of itself: enough to repeat it and to know what it proves. */
export function createReport(
  result: Pick<WorldsResult, 'ledger' | 'runs' | 'orders' | 'images' | 'failures'>,
  input: { seed: number; command: string; durationSeconds: number },
) {
  const { ledger, failures } = result
  const sentences = failures.flatMap(({ broken }) => broken)
  return {
    ...input,
    machine: describeMachine(),
    runs: result.runs,
    orders: result.orders,
    images_stored: result.images,
    faults: ledger.total,
    faults_per_second: Math.round(ledger.total / input.durationSeconds),
    runs_with_findings: failures.length,
    lost: sentences.filter((one) => one.includes('lost:')).length,
    doubled: sentences.filter((one) => one.includes('doubled:')).length,
    /** With this many independent faults and no finding, 95 % sure that fewer than this part of them do harm. */
    upper_bound: failures.length === 0 && ledger.total > 0 ? 3 / ledger.total : null,
    /** Statements that only run within a transaction: there none can arrive after its caller gave up. */
    never_alone: ledger
      .reached()
      .flatMap(([point, wasAlone]) => (wasAlone ? [] : [point]))
      .toSorted(),
    cells: ledger.cells().map(([point, kind, count]) => ({ point, kind, count })),
    failures: failures.map(({ seed, broken }) => ({ seed, broken: broken.slice(0, 20) })),
  }
}

export function toText(report: FaultReport): string {
  const { machine } = report
  const lines = [
    `${report.faults} faults fired in ${report.runs} runs: ${report.lost} charges lost, ${report.doubled} doubled, ${report.runs_with_findings} runs with findings`,
    `${report.orders} orders, ${report.images_stored} pictures stored, ${Math.round(report.durationSeconds)} s, ${report.faults_per_second} faults a second`,
    `seed ${report.seed}, commit ${machine.commit}, ${machine.cores} x ${machine.cpu}, node ${machine.node}`,
    report.upper_bound === null
      ? 'no bound: there were findings'
      : `no harm in ${report.faults} faults: at 95 % confidence at most ${report.upper_bound.toExponential(1)} of them do any (3/N)`,
    `repeat: ${report.command}`,
    '',
    ...coverageOf(report),
    ...report.failures.flatMap(toFailure),
  ]
  return lines.join('\n')
}

function coverageOf(report: FaultReport): string[] {
  const kinds: readonly string[] = DATABASE_FAULTS
  const points = [...new Set(report.cells.map(({ point }) => point))]
  const countOf = (point: string, kind: string) =>
    report.cells.find((cell) => cell.point === point && cell.kind === kind)?.count ?? 0
  const inDatabase = points.filter((point) =>
    report.cells.some((cell) => cell.point === point && kinds.includes(cell.kind)),
  )
  const canOccur = (point: string, kind: string) =>
    kind !== 'statement late' || !report.never_alone.includes(point)
  const cells = inDatabase.flatMap((point) =>
    kinds.flatMap((kind) => (canOccur(point, kind) ? [{ point, kind }] : [])),
  )
  const counts = cells.map(({ point, kind }) => countOf(point, kind))
  const thin = counts.filter((count) => count < WANTED_PER_CELL).length
  const width = Math.max(...inDatabase.map(({ length }) => length), 10)
  const row = (name: string, cells: readonly (string | number)[]) =>
    name.padEnd(width) + cells.map((cell) => String(cell).padStart(9)).join('')
  const others = report.cells
    .filter(({ kind }) => !kinds.includes(kind))
    .map(({ point, kind, count }) => `${`${point}: ${kind}`.padEnd(width + 30)}${count}`)
  if (inDatabase.length === 0) return others
  return [
    row(
      'statement',
      kinds.map((kind) => kind.replace('statement', 'stmt').slice(0, 8)),
    ),
    ...inDatabase.map((point) =>
      row(
        point,
        kinds.map((kind) => (canOccur(point, kind) ? countOf(point, kind) : '-')),
      ),
    ),
    `${inDatabase.length} statements x ${kinds.length} kinds: least ${Math.min(...counts)} in a cell, ${thin} of ${counts.length} cells below ${WANTED_PER_CELL}`,
    `-: cannot occur, as the statement only runs within a transaction, which the server ends before a late one arrives`,
    '',
    ...others,
  ]
}

function toFailure({ seed, broken }: Pick<SimulationResult, 'seed' | 'broken'>): string[] {
  return [
    '',
    `seed ${seed} (npm run faults -- --seed ${seed} --runs 1):`,
    ...broken.slice(0, 8).map((one) => `  ${one}`),
  ]
}
