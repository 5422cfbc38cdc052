import { readReceivable } from '../../billing/balance.ts'
import { findWriteOff, refundImages, writeOff } from '../../billing/refund.ts'
import { listUsageOfJob } from '../../billing/usage.ts'
import type { Db } from '../../db/client.ts'
import { isTerminal } from '../../db/job-state.ts'
import { findJob, findOrgOfJob } from '../../db/jobs.ts'
import type { JobWithOutputs } from '../../db/jobs.ts'
import { Refusal, defineCommand } from './command.ts'
import type { Command } from './command.ts'
import { refused, theOrg } from './lookup.ts'
import { indexes, maybe, text, usd } from './options.ts'
import { showUsd } from './output.ts'
import type { Report } from './output.ts'

const show = defineCommand({
  name: 'job show',
  help: "Shows a job: state, attempts, images and money; not its prompt, which is its caller's.",
  args: { job: text('JOB', 'id') },
  options: {},
  run: async ({ db }, values) => await describe(db, await theJob(db, values.job)),
})

const refund = defineCommand({
  name: 'refund',
  help: `Gives back what images of a finished job cost: to where the money came from, with room in the budgets. An image is
refunded once, whatever the source, so that a repeat changes nothing.`,
  args: { job: text('JOB', 'id') },
  options: {
    images: maybe(indexes('their places, such as 0,2 (all that were charged)')),
    source: text('REF', 'why, such as a ticket; it stands in the ledger'),
  },
  async run({ db, note }, values) {
    const found = await theJob(db, values.job)
    const { id: jobId, orgId, state } = found.job
    if (!isTerminal(state))
      throw new Refusal(`JOB: it is ${state}; only what is finished was charged`)
    const charged = (await listUsageOfJob(db, jobId)).map(({ idx }) => idx)
    const wanted = values.images ?? charged
    const unknown = wanted.filter((idx) => !charged.includes(idx))
    if (charged.length === 0) throw new Refusal('JOB: none of its images was charged')
    if (unknown.length > 0) {
      throw new Refusal(`--images: ${unknown.join(',')} not charged; charged: ${charged.join(',')}`)
    }
    const given = await refundImages(db, {
      orgId,
      jobId,
      indexes: wanted,
      refundId: values.source,
    })
    if (given === 0n) note('They were refunded before, or cost nothing: nothing was changed.')
    return { refunded: given ?? 0n, ...(await describe(db, found)) }
  },
})

const writeOffCommand = defineCommand({
  name: 'write-off',
  help: `Gives up what an organisation owes and will not pay, once per source: a repeat changes nothing. A freeze that stood
for that debt alone ends with it.`,
  args: {},
  options: {
    org: text('ORG', 'id or name'),
    usd: usd('how much, at most what it owes'),
    source: text('REF', 'why, such as a decision; unique for ever'),
  },
  async run({ db, note }, values) {
    const { id: orgId } = await theOrg(db, '--org', values.org)
    const owes = await readReceivable(db, orgId)
    const amount = values.usd
    const answer = { org: orgId, amount, source: values.source }
    const earlier = await findWriteOff(db, values.source)
    if (earlier && (earlier.orgId !== orgId || earlier.amountMicros !== amount)) {
      const what = `${showUsd(earlier.amountMicros)} of ${earlier.orgId}`
      throw new Refusal(`--source: ${what} was written off under it`)
    }
    if (!earlier && owes < amount) throw new Refusal(`--usd: it owes ${showUsd(owes)}`)
    const input = { orgId, amountMicros: amount, sourceId: values.source }
    const isNew = !earlier && (await refused(writeOff(db, input)))
    if (!isNew) note('This source was written off before: nothing was changed.')
    return { ...answer, written_off: isNew, owes: await readReceivable(db, orgId) }
  },
})

async function theJob(db: Db, jobId: string): Promise<JobWithOutputs> {
  const orgId = await findOrgOfJob(db, jobId)
  const found = orgId === null ? null : await findJob(db, { orgId, jobId })
  if (!found) throw new Refusal(`JOB: there is no job "${jobId}"`)
  return found
}

async function describe(db: Db, { job, outputs, reservation }: JobWithOutputs): Promise<Report> {
  const usage = new Map((await listUsageOfJob(db, job.id)).map((line) => [line.idx, line]))
  return {
    id: job.id,
    org: job.orgId,
    team: job.teamId,
    key: job.keyId,
    state: job.state,
    error: job.errorCode,
    model: job.model,
    size: `${job.width}x${job.height}`,
    images_wanted: job.n,
    attempts: job.attempt,
    failed_attempts: job.failedAttempts,
    worker: job.workerId,
    reservation: reservation.state,
    held: reservation.state === 'held' ? reservation.amountMicros : 0n,
    charged: reservation.capturedMicros,
    billed_reason: job.billedReason,
    text_guarantee: job.textTerms?.guarantee ?? null,
    created_at: job.createdAt,
    started_at: job.startedAt,
    finished_at: job.finishedAt,
    deleted_at: job.deletedAt,
    images: outputs.map((output) => {
      const { idx, sizeBytes, width, height, storedAt, deletedAt, textCheck, unbilledReason } =
        output
      const line = usage.get(idx)
      return {
        index: idx,
        size: `${width}x${height}`,
        bytes: sizeBytes,
        unbilled_reason: unbilledReason,
        word_accuracy: textCheck?.word_accuracy ?? null,
        sku: line?.skuId ?? null,
        list: line?.listMicros ?? null,
        net: line?.netMicros ?? null,
        paid_by_promo: line?.creditMicros ?? null,
        refunded: line?.refundedMicros ?? null,
        stored_at: storedAt,
        deleted_at: deletedAt,
      }
    }),
  }
}

export const JOB_COMMANDS: readonly Command[] = [show, refund, writeOffCommand]
