import { createHash } from 'node:crypto'
import { reserveJob } from '../../billing/reserve.ts'
import type { NewJob, ReserveResult } from '../../billing/reserve.ts'
import type { Db } from '../../db/client.ts'
import { createId } from '../../db/ids.ts'
import { recordOutput } from '../../db/job-claims.ts'
import { unbilledReasonOf } from '../../db/text-terms.ts'
import type { TextCheck } from '../../db/text-terms.ts'
import { insertKey } from '../../db/keys.ts'
import { createOrg, createTeam } from '../../db/orgs.ts'
import type { Limits } from '../../db/orgs.ts'
import { objectKeyOf } from '../../gpu-worker/store.ts'

/** One image at list price. */
export const IMAGE_MICROS = 15_000n
export const LIST_PRICE = {
  unitMicros: IMAGE_MICROS,
  priceVersionId: 'price_glm_image_1',
  listVersionId: 'price_glm_image_1',
  orgPriceId: null,
}

export interface BareTenant {
  orgId: string
  teamId: string
  keyId: string
}

/** An org, a team and a key whose hash belongs to no key string. */
export async function createBareTenant(
  db: Db,
  limits: {
    org?: Limits
    team?: Limits
    key?: Limits
    settlementMode?: 'prepaid' | 'postpaid' | 'internal'
  } = {},
): Promise<BareTenant> {
  const { orgId } = await createOrg(db, {
    name: 'Acme',
    kind: 'external',
    settlementMode: limits.settlementMode ?? 'postpaid',
    ...limits.org,
  })
  const { teamId, keyId } = await createBareKey(db, orgId, limits)
  return { orgId, teamId, keyId }
}

/** Another team with a key in the same org. */
export async function createBareKey(
  db: Db,
  orgId: string,
  limits: { team?: Limits; key?: Limits; teamId?: string } = {},
): Promise<{ teamId: string; keyId: string }> {
  const keyId = createId('key')
  const teamId =
    limits.teamId ??
    (await createTeam(db, { orgId, name: 'Design', costCentre: keyId, ...limits.team })).teamId
  await insertKey(db, {
    keyId,
    orgId,
    teamId,
    name: 'test',
    env: 'test',
    hash: createHash('sha256').update(keyId).digest('hex'),
    last4: 'abcd',
    scopes: ['generate', 'read', 'webhooks'],
    ...limits.key,
  })
  return { teamId, keyId }
}

export function newJob(tenant: BareTenant, changes: Partial<NewJob> = {}): NewJob {
  return {
    id: createId('job'),
    ...tenant,
    idempotencyKey: null,
    requestHash: 'hash',
    dialect: 'native',
    model: 'glm-image',
    prompt: "A sign 'OPEN'",
    width: 64,
    height: 64,
    n: 1,
    quality: 'hd',
    priority: 'standard',
    seed: 1,
    steps: null,
    guidanceScale: null,
    format: 'png',
    callerFields: {},
    webhookUrl: null,
    deadlineSeconds: 900,
    ...changes,
  }
}

/** Reserves at list price. */
export function reserve(
  db: Db,
  tenant: BareTenant,
  changes: Partial<NewJob> = {},
): Promise<ReserveResult> {
  return reserveJob(db, {
    job: newJob(tenant, changes),
    price: LIST_PRICE,
  })
}

/** What a worker found in a picture that shows `OPEN`, as it should. */
export const PASSED: TextCheck = {
  status: 'checked',
  error: null,
  passed: true,
  word_accuracy: 1,
  ned: 1,
  texts: [{ expected: 'OPEN', matched: true, missing: [] }],
  read: ['OPEN'],
  draws: 1,
  engine: 'pp-ocrv6-small',
  engine_version: '1',
  duration_ms: 300,
}

/** What it found in one that shows `OPFN`. */
export const MISSED: TextCheck = {
  ...PASSED,
  passed: false,
  word_accuracy: 0,
  ned: 0.750002,
  texts: [{ expected: 'OPEN', matched: false, missing: ['open'] }],
  read: ['OPFN'],
}

/** Notes one image as a worker would; with `found`, of a job that was promised a refund. @returns false when the job is no longer this attempt's */
export async function deliver(
  db: Db,
  jobId: string,
  attempt: number,
  idx = 0,
  found: TextCheck | null = null,
): Promise<boolean> {
  const sha256 = createHash('sha256').update(`${jobId} ${idx}`).digest('hex')
  const contentType = 'image/png'
  const objectKey = objectKeyOf({ jobId, attempt, idx, sha256, contentType, format: 'png' })
  const image = { sizeBytes: 1000, contentType, width: 64, height: 64, seed: idx }
  const unbilledReason = found && unbilledReasonOf({ guarantee: 'refund' }, found)
  const output = { idx, objectKey, sha256, ...image, textCheck: found, unbilledReason }
  return (await recordOutput(db, { jobId, attempt, output })).owned
}
