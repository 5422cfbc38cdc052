import { and, desc, eq, inArray, lt, sql } from 'drizzle-orm'
import type { Db } from './client.ts'
import { withTransaction } from './client.ts'
import type { JobState } from './job-state.ts'
import { isTerminal } from './job-state.ts'
import { reservation } from './schema/budget.ts'
import { job, jobOutput } from './schema/job.ts'
import { forgetJobInWebhooks } from './webhook-log.ts'

export type JobRow = typeof job.$inferSelect
export type OutputRow = typeof jobOutput.$inferSelect

export interface JobWithOutputs {
  job: JobRow
  /** By index; empty until the first image is stored. */
  outputs: OutputRow[]
  reservation: Pick<
    typeof reservation.$inferSelect,
    'state' | 'unitMicros' | 'amountMicros' | 'capturedMicros'
  >
}

const WITH_RESERVATION = {
  job,
  reservation: {
    state: reservation.state,
    unitMicros: reservation.unitMicros,
    amountMicros: reservation.amountMicros,
    capturedMicros: reservation.capturedMicros,
  },
}

const findStatements = new WeakMap<Db['orm'], ReturnType<typeof prepareFind>>()

/** Every call that makes a job reads it back by this: kept, so that neither side makes a plan of it each time. */
function prepareFind(orm: Db['orm']) {
  return orm
    .select({ ...WITH_RESERVATION, output: jobOutput })
    .from(job)
    .innerJoin(reservation, eq(reservation.jobId, job.id))
    .leftJoin(jobOutput, eq(jobOutput.jobId, job.id))
    .where(and(eq(job.id, sql.placeholder('jobId')), eq(job.orgId, sql.placeholder('orgId'))))
    .orderBy(jobOutput.idx)
    .prepare('find_job')
}

/** A job of this org with its outputs and its money, of one moment, or null: another org's job is not there. */
export async function findJob(
  db: Db,
  input: { orgId: string; jobId: string },
): Promise<JobWithOutputs | null> {
  const find = findStatements.get(db.orm) ?? prepareFind(db.orm)
  findStatements.set(db.orm, find)
  const rows = await find.execute(input)
  const [found] = rows
  if (!found) return null
  const outputs = rows.flatMap(({ output }) => (output === null ? [] : [output]))
  return { job: found.job, reservation: found.reservation, outputs }
}

/** The org of a job, for those who look after all of them; null when there is no such job. */
export async function findOrgOfJob(db: Db, jobId: string): Promise<string | null> {
  const [found] = await db.orm.select({ orgId: job.orgId }).from(job).where(eq(job.id, jobId))
  return found?.orgId ?? null
}

/** The stored images of a job, by index. */
export function listOutputs(db: Db, jobId: string): Promise<OutputRow[]> {
  return db.orm.select().from(jobOutput).where(eq(jobOutput.jobId, jobId)).orderBy(jobOutput.idx)
}

/**
 * A page of an org's jobs with their outputs and money, newest first, in two queries.
 *
 * @param input.before id of the last job of the page before
 */
export async function listJobs(
  db: Db,
  input: { orgId: string; state?: JobState; before?: string; limit: number },
): Promise<JobWithOutputs[]> {
  const rows = await db.orm
    .select(WITH_RESERVATION)
    .from(job)
    .innerJoin(reservation, eq(reservation.jobId, job.id))
    .where(
      and(
        eq(job.orgId, input.orgId),
        input.state === undefined ? undefined : eq(job.state, input.state),
        input.before === undefined ? undefined : lt(job.id, input.before),
      ),
    )
    .orderBy(desc(job.id))
    .limit(input.limit)
  const ids = rows.map((row) => row.job.id)
  if (ids.length === 0) return []
  const outputs = await db.orm
    .select()
    .from(jobOutput)
    .where(inArray(jobOutput.jobId, ids))
    .orderBy(jobOutput.idx)
  return rows.map((row) => ({
    ...row,
    outputs: outputs.filter((output) => output.jobId === row.job.id),
  }))
}

/** The states of many jobs in one query; unknown ids are left out. */
export function readJobStates(
  db: Db,
  jobIds: readonly string[],
): Promise<{ id: string; state: JobState }[]> {
  if (jobIds.length === 0) return Promise.resolve([])
  return db.orm
    .select({ id: job.id, state: job.state })
    .from(job)
    .where(inArray(job.id, [...jobIds]))
}

/**
 * An image that may be served: of a succeeded job. Not tied to an org: whoever holds a signed URL may read.
 * A deleted one comes back with `deletedAt` set.
 */
export async function findOutput(
  db: Db,
  input: { jobId: string; idx: number },
): Promise<OutputRow | null> {
  const [found] = await db.orm
    .select({ output: jobOutput })
    .from(jobOutput)
    .innerJoin(job, eq(job.id, jobOutput.jobId))
    .where(
      and(
        eq(jobOutput.jobId, input.jobId),
        eq(jobOutput.idx, input.idx),
        eq(job.state, 'succeeded'),
      ),
    )
  return found?.output ?? null
}

/** An image of this org's succeeded job, also one that was deleted; null when there is none. */
export async function findOwnOutput(
  db: Db,
  input: { orgId: string; jobId: string; idx: number },
): Promise<OutputRow | null> {
  const [owned] = await db.orm
    .select({ id: job.id })
    .from(job)
    .where(and(eq(job.id, input.jobId), eq(job.orgId, input.orgId)))
  return owned ? findOutput(db, input) : null
}

/** Whether a job was made under this key and idempotency key. */
export async function isKnownCall(
  db: Db,
  call: { keyId: string; idempotencyKey: string },
): Promise<boolean> {
  const known = await db.orm
    .select({ id: job.id })
    .from(job)
    .where(and(eq(job.keyId, call.keyId), eq(job.idempotencyKey, call.idempotencyKey)))
  return known.length > 0
}

export type DeleteResult =
  | { ok: true; /** How many images the job had. */ images: number }
  | { ok: false; reason: 'not_found' | 'not_finished' }

/**
 * Forgets what a finished job was about: prompt, caller's fields, webhook URL, images and those it was made from; in
 * the webhook log too. Usage and ledger stay.
 *
 * The caller then removes the job's objects; a crash in between is mended by repeating the call, which keeps the
 * moment of the first.
 */
export async function markJobDeleted(
  db: Db,
  input: { orgId: string; jobId: string },
): Promise<DeleteResult> {
  return await withTransaction(db, async (tx) => {
    const [row] = await tx.orm
      .select({ state: job.state })
      .from(job)
      .where(and(eq(job.id, input.jobId), eq(job.orgId, input.orgId)))
      .for('update')
    if (!row) return { ok: false, reason: 'not_found' }
    if (!isTerminal(row.state)) return { ok: false, reason: 'not_finished' }
    const outputs = await tx.orm
      .update(jobOutput)
      .set({
        deletedAt: sql`coalesce(${jobOutput.deletedAt}, now())`,
        // Its scores are no secret; words are.
        textCheck: sql`${jobOutput.textCheck} || '{"texts": [], "read": []}'::jsonb`,
      })
      .where(eq(jobOutput.jobId, input.jobId))
      .returning({ idx: jobOutput.idx })
    await tx.orm
      .update(job)
      .set({
        prompt: null,
        callerFields: {},
        webhookUrl: null,
        inputImages: null,
        textTerms: sql`${job.textTerms} || '{"expected": []}'::jsonb`,
        deletedAt: sql`coalesce(${job.deletedAt}, now())`,
      })
      .where(eq(job.id, input.jobId))
    await forgetJobInWebhooks(tx, input.jobId)
    return { ok: true, images: outputs.length }
  })
}
