import type { Db } from '../db/client.ts'
import { createId } from '../db/ids.ts'

export interface MoveKeyInput {
  readonly keyId: string
  readonly teamId: string
  /** From when the key's usage counts on the team; not in the future. */
  readonly validFrom: Date
}

export type MoveKeyResult =
  | {
      ok: true
      assignmentId: string
      /** Usage lines that were moved by this call. */
      movedLines: number
      movedMicros: bigint
      /** False when there are more lines than one call takes, or a newer move has begun: then call again, or not. */
      isComplete: boolean
    }
  | { ok: false; reason: 'key_not_found' | 'team_not_found' | 'in_future' }

/** Lines of one transaction; the key's row is locked meanwhile, for some tens of milliseconds. */
const LINES_PER_STEP = 1_000
/** A million lines in one call. */
const MAX_STEPS = 1_000

/**
 * Gives a key to another team of its org: what it starts from now on counts on the new team's budget, and what it has
 * used since `validFrom` is moved there by corrections of today. Closed months keep their bytes; the corrections stand
 * in the month under way. For an internal org the cost moves between the teams' accounts with them.
 *
 * Jobs accepted before the move settle on the team they were accepted for, on whose budget their hold lies. Safe to
 * repeat, and a repeat moves the lines of such jobs too; after a crash it goes on where it stopped.
 */
export async function moveKey(db: Db, input: MoveKeyInput): Promise<MoveKeyResult> {
  const { keyId, teamId, validFrom } = input
  const [row] = await db.sql<{ result: MoveAnswer }[]>`
    select move_key(${keyId}, ${teamId}, ${validFrom}, ${createId('keyAssignment')}) as result`
  if (!row) throw new Error('move_key returned no row')
  if (row.result.outcome !== 'moved') return { ok: false, reason: row.result.outcome }
  const assignmentId = row.result.assignment_id
  return { ok: true, assignmentId, ...(await correctUsage(db, assignmentId)) }
}

async function correctUsage(
  db: Db,
  assignmentId: string,
): Promise<{ movedLines: number; movedMicros: bigint; isComplete: boolean }> {
  const moved = { movedLines: 0, movedMicros: 0n }
  let after = { at: '-infinity', id: '' }
  for (let step = 0; step < MAX_STEPS; step++) {
    const [row] = await db.sql<{ result: StepAnswer }[]>`
      select correct_moved_usage(${assignmentId}, ${after.at}::text::timestamptz, ${after.id}, ${LINES_PER_STEP}) as result`
    if (!row) throw new Error('correct_moved_usage returned no row')
    const { result } = row
    if (result.outcome === 'superseded') return { ...moved, isComplete: false }
    moved.movedLines += result.moved
    moved.movedMicros += BigInt(result.net_micros)
    if (result.scanned < LINES_PER_STEP) return { ...moved, isComplete: true }
    after = { at: result.after, id: result.after_id }
  }
  return { ...moved, isComplete: false }
}

/**
 * Names what a key's cost is for; tags replace those of before. They count for every month that is not closed: closed
 * statements keep what they say. False when the org has no such key. Safe to repeat.
 */
export async function setKeyTags(
  db: Db,
  input: { orgId: string; keyId: string; tags: Record<string, string> },
): Promise<boolean> {
  const rows = await db.sql`
    update api_key set tags = ${JSON.stringify(input.tags)}::text::jsonb
     where id = ${input.keyId} and org_id = ${input.orgId} returning id`
  return rows.length > 0
}

type MoveAnswer =
  | { outcome: 'moved'; assignment_id: string }
  | { outcome: 'key_not_found' | 'team_not_found' | 'in_future' }

type StepAnswer =
  | { outcome: 'superseded' }
  | {
      outcome: 'corrected'
      scanned: number
      moved: number
      net_micros: string
      after: string
      after_id: string
    }
