import { createHash } from 'node:crypto'
import { setTimeout as wait } from 'node:timers/promises'
import { drawPicture } from '../support/pictures.ts'
import type { Tenant } from '../support/tenant.ts'
import type { PlacedOrder } from './compare-orders.ts'
import { createRandom } from './random.ts'
import type { Random } from './random.ts'

/** How many callers at once; each does one thing after the other. */
const CALLERS = 6
/** Between two things of one caller: at most so long. */
const THINK_MS = 1_500
const SIZES = ['64x64', '128x128', '256x256', '256x192', '320x320'] as const
const CALL_TIMEOUT_MS = 120_000
/** A caller asks again for so long before it says that it was not served. */
const PATIENCE_MS = 300_000
const POLL_MS = 200

export interface SoakOrder extends PlacedOrder {
  dialect: 'native' | 'openai' | 'zai' | 'zai-async' | 'edit'
  hasWebhook: boolean
  /** From the first call to the pictures, for orders that were not canceled; null when it had no such end. */
  latencyMs: number | null
  /** While nothing was killed. */
  isQuiet: boolean
}

export interface SoakLoad {
  readonly orders: readonly SoakOrder[]
  /** Other calls that were answered, by name. */
  readonly calls: Record<string, number>
  /** Milliseconds of reading calls. */
  readonly readMs: readonly number[]
  /** Calls that were made again because nobody answered. */
  readonly repeats: () => number
  /** What a caller saw and should not have. */
  readonly broken: string[]
  /** Ends when every caller has done what it was at. */
  stop(): Promise<void>
}

interface Callers {
  origin: string
  tenants: readonly Tenant[]
  webhookUrl: string
  seed: number
  isQuiet: () => boolean
}

/** Starts callers that order, read, cancel and delete in three dialects until they are stopped. */
export async function startLoad(input: Callers): Promise<SoakLoad> {
  const orders: SoakOrder[] = []
  const calls: Record<string, number> = {}
  const readMs: number[] = []
  const broken: string[] = []
  let repeats = 0
  let isOver = false
  const picture = await drawPicture(1, { width: 96, height: 64 })

  /** Asks until somebody answers; the same call under the same key may have arrived before. */
  const ask = async (
    tenant: Tenant,
    path: string,
    init: { method?: string; body?: object | FormData; key?: string; isZai?: boolean } = {},
  ): Promise<{ status: number; body: Answer } | null> => {
    const endMs = performance.now() + PATIENCE_MS
    const isForm = init.body instanceof FormData
    for (; performance.now() < endMs; repeats++) {
      try {
        const response = await fetch(`${input.origin}${path}`, {
          method: init.method ?? (init.body === undefined ? 'GET' : 'POST'),
          headers: {
            authorization: `Bearer ${init.isZai ? tenant.zaiKey : tenant.apiKey}`,
            ...(isForm ? {} : { 'content-type': 'application/json' }),
            ...(init.key === undefined ? {} : { 'idempotency-key': init.key }),
          },
          ...(init.body === undefined
            ? {}
            : { body: init.body instanceof FormData ? init.body : JSON.stringify(init.body) }),
          signal: AbortSignal.timeout(CALL_TIMEOUT_MS),
        })
        const body = (await response.json()) as Answer
        const isTrouble = response.status >= 500 || response.status === 429
        // A job that failed is an answer too; what else is wrong on the other side passes.
        if (!isTrouble || isJobsOwn(body)) return { status: response.status, body }
      } catch {
        // Nobody listens, or the connection broke: the same again.
      }
      await wait(250)
    }
    broken.push(`${path} had no answer in ${PATIENCE_MS} ms`)
    return null
  }
  const context: Context = { ...input, ask, orders, calls, readMs, broken, picture }
  const callers = Array.from({ length: CALLERS }, async (_, line) => {
    const random = createRandom(input.seed, `caller ${line}`)
    for (let count = 0; !isOver; count++) {
      const tenant = input.tenants[line % input.tenants.length]
      if (tenant) await act(context, tenant, random, `${line}-${count}`)
      await wait(random.int(THINK_MS))
    }
  })
  return {
    orders,
    calls,
    readMs,
    broken,
    repeats: () => repeats,
    async stop() {
      isOver = true
      await Promise.all(callers)
    },
  }
}

interface Answer {
  id?: string
  state?: string
  task_status?: string
  error?: { code?: string } | null
  outputs?: { url: string; sha256: string }[]
  data?: { url?: string; sha256?: string }[]
}

interface Context extends Callers {
  ask: (
    tenant: Tenant,
    path: string,
    init?: { method?: string; body?: object | FormData; key?: string; isZai?: boolean },
  ) => Promise<{ status: number; body: Answer } | null>
  orders: SoakOrder[]
  calls: Record<string, number>
  readMs: number[]
  broken: string[]
  picture: Uint8Array
}

/** Codes by which a call says how its job ended, or that it goes on; the gateway itself is well. */
const JOB_CODES = new Set(['generation_failed', 'still_running', 'gone', '1234', '1230', '500'])

function isJobsOwn(body: Answer): boolean {
  return JOB_CODES.has(String(body.error?.code ?? ''))
}

async function act(context: Context, tenant: Tenant, random: Random, key: string): Promise<void> {
  const draw = random.next()
  if (draw < 0.32) return orderNative(context, tenant, random, { key, isCanceled: false })
  if (draw < 0.42) return orderNative(context, tenant, random, { key, isCanceled: true })
  if (draw < 0.57) return orderSync(context, tenant, random, { key, dialect: 'openai' })
  if (draw < 0.69) return orderSync(context, tenant, random, { key, dialect: 'zai' })
  if (draw < 0.74) return orderAsync(context, tenant, random, key)
  if (draw < 0.79) return orderEdit(context, tenant, key)
  if (draw < 0.86) return deleteOne(context, tenant, random)
  return readSome(context, tenant, random)
}

const orderOf = (context: Context, values: Pick<SoakOrder, 'key' | 'n' | 'dialect'>): SoakOrder => {
  const order: SoakOrder = {
    ...values,
    jobIds: new Set(),
    hasWebhook: false,
    latencyMs: null,
    isQuiet: context.isQuiet(),
  }
  context.orders.push(order)
  return order
}

async function orderNative(
  context: Context,
  tenant: Tenant,
  random: Random,
  { key, isCanceled }: { key: string; isCanceled: boolean },
): Promise<void> {
  const n = isCanceled ? 3 : 1 + random.int(3)
  const order = orderOf(context, { key, n, dialect: 'native' })
  order.hasWebhook = random.chance(0.5)
  const startMs = performance.now()
  const made = await context.ask(tenant, '/v1/jobs', {
    key,
    body: {
      prompt: 'A sign',
      n,
      size: random.pick(SIZES),
      output_format: random.pick(['png', 'webp', 'jpeg']),
      ...(order.hasWebhook ? { webhook_url: context.webhookUrl } : {}),
    },
  })
  const id = accepted(context, order, made)
  if (id === null) return
  if (isCanceled) {
    await wait(random.int(400))
    await context.ask(tenant, `/v1/jobs/${id}/cancel`, { method: 'POST' })
    count(context, 'cancel')
  }
  for (;;) {
    const job = await context.ask(tenant, `/v1/jobs/${id}`)
    if (job === null) return
    const { state = '', outputs = [] } = job.body
    if (!['accepted', 'queued', 'running'].includes(state)) {
      if (!isCanceled && state === 'succeeded') order.latencyMs = performance.now() - startMs
      // Also that what the answer promises is what its URL gives.
      await checkPicture(context, outputs[random.int(Math.max(1, outputs.length))], id)
      return
    }
    await wait(POLL_MS)
  }
}

async function orderSync(
  context: Context,
  tenant: Tenant,
  random: Random,
  { key, dialect }: { key: string; dialect: 'openai' | 'zai' },
): Promise<void> {
  const isZai = dialect === 'zai'
  const n = isZai ? 1 : 1 + random.int(2)
  const order = orderOf(context, { key, n, dialect })
  const startMs = performance.now()
  const path = isZai ? '/api/paas/v4/images/generations' : '/v1/images/generations'
  const body = { model: 'glm-image', prompt: 'A sign', size: random.pick(SIZES) }
  const answer = await context.ask(tenant, path, {
    key,
    isZai,
    body: isZai ? body : { ...body, n },
  })
  const id = accepted(context, order, answer)
  if (id === null || answer?.status !== 200) return
  order.latencyMs = performance.now() - startMs
  const [first] = answer.body.data ?? []
  if (first?.url && first.sha256)
    await checkPicture(context, { url: first.url, sha256: first.sha256 }, id)
}

async function orderAsync(
  context: Context,
  tenant: Tenant,
  random: Random,
  key: string,
): Promise<void> {
  const order = orderOf(context, { key, n: 1, dialect: 'zai-async' })
  const startMs = performance.now()
  const made = await context.ask(tenant, '/api/paas/v4/async/images/generations', {
    key,
    isZai: true,
    body: { model: 'glm-image', prompt: 'A sign', size: random.pick(SIZES) },
  })
  const id = accepted(context, order, made)
  if (id === null) return
  for (;;) {
    const task = await context.ask(tenant, `/api/paas/v4/async-result/${id}`, { isZai: true })
    if (task === null) return
    if (task.body.task_status === 'SUCCESS') order.latencyMs = performance.now() - startMs
    if (task.body.task_status !== 'PROCESSING') return
    await wait(POLL_MS)
  }
}

async function orderEdit(context: Context, tenant: Tenant, key: string): Promise<void> {
  const order = orderOf(context, { key, n: 1, dialect: 'edit' })
  const form = new FormData()
  form.append('model', 'glm-image')
  form.append('prompt', 'Write on it')
  form.append('image', new Blob([new Uint8Array(context.picture)], { type: 'image/png' }), 'a.png')
  const startMs = performance.now()
  const answer = await context.ask(tenant, '/v1/images/edits', { key, body: form })
  if (accepted(context, order, answer) === null || answer?.status !== 200) return
  order.latencyMs = performance.now() - startMs
}

/** One of its own that is over, or not: then the gateway says so. */
async function deleteOne(context: Context, tenant: Tenant, random: Random): Promise<void> {
  const all = context.orders.filter((order) => isOf(context, order, tenant) && order.latencyMs)
  const [jobId] = all[random.int(Math.max(1, all.length))]?.jobIds ?? []
  if (jobId === undefined) return
  const answer = await context.ask(tenant, `/v1/jobs/${jobId}`, { method: 'DELETE' })
  if (answer !== null && answer.status !== 200)
    context.broken.push(`job ${jobId} could not be deleted: ${JSON.stringify(answer)}`)
  count(context, 'delete')
}

/** Callers keep to one tenant each, which the first part of a key tells. */
function isOf({ tenants }: Context, { key }: SoakOrder, tenant: Tenant): boolean {
  return tenants[Number(key.split('-')[0]) % tenants.length] === tenant
}

const READS = ['quote', 'statements', 'statement', 'usage', 'balance', 'jobs', 'models'] as const

async function readSome(context: Context, tenant: Tenant, random: Random): Promise<void> {
  const what = random.pick(READS)
  const startMs = performance.now()
  const answer = await read(context, tenant, what)
  context.readMs.push(performance.now() - startMs)
  if (answer !== null && answer.status !== 200)
    context.broken.push(`${what} answers ${answer.status}: ${JSON.stringify(answer.body)}`)
  count(context, what)
}

function read(context: Context, tenant: Tenant, what: (typeof READS)[number]) {
  const month = new Date().toISOString().slice(0, 7)
  switch (what) {
    case 'quote':
      return context.ask(tenant, '/v1/quote', {
        body: { model: 'glm-image', n: 2, size: '256x256' },
      })
    case 'statement':
      return context.ask(tenant, `/v1/statements/${month}`)
    case 'usage':
      return context.ask(
        tenant,
        `/v1/usage?from=${month}-01T00:00:00Z&to=${new Date().toISOString()}`,
      )
    case 'jobs':
      return context.ask(tenant, '/v1/jobs?limit=20')
    case 'statements':
    case 'balance':
    case 'models':
      return context.ask(tenant, `/v1/${what}`)
  }
}

/** Notes what an order was answered. @returns the id of its job; null when there is none */
function accepted(
  { broken }: Context,
  order: SoakOrder,
  answer: { status: number; body: Answer } | null,
): string | null {
  if (answer === null) return null
  const { status, body } = answer
  const id = typeof body.id === 'string' && body.id.startsWith('job_') ? body.id : null
  if (id !== null) order.jobIds.add(id)
  else if (status < 300) broken.push(`order ${order.key} has no id: ${JSON.stringify(body)}`)
  else if (!isJobsOwn(body))
    broken.push(`order ${order.key} was refused: ${status} ${JSON.stringify(body)}`)
  return id
}

async function checkPicture(
  { broken }: Context,
  output: { url: string; sha256: string } | undefined,
  jobId: string,
): Promise<void> {
  if (output === undefined) return
  try {
    const response = await fetch(output.url, { signal: AbortSignal.timeout(CALL_TIMEOUT_MS) })
    const bytes = new Uint8Array(await response.arrayBuffer())
    // Somebody may have deleted the job meanwhile.
    if (response.status === 410 || response.status >= 500) return
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    if (sha256 !== output.sha256)
      broken.push(`job ${jobId} promises another picture: ${response.status}`)
  } catch {
    // The gateway was killed just then.
  }
}

function count({ calls }: Context, what: string): void {
  calls[what] = (calls[what] ?? 0) + 1
}
