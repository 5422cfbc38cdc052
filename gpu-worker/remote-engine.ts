import { Agent, request as send } from 'undici'
import type { Dispatcher } from 'undici'
import { z } from 'zod'
import { EngineError } from './engine-error.ts'
import type { Engine } from './engine.ts'
import { readSize, servingSchema } from './model/serving.ts'
import { checkRequest } from './pipeline/check-request.ts'
import type { CheckedRequest } from './pipeline/check-request.ts'
import { encodeFile } from './pipeline/encode.ts'
import type { GenerateHooks, ImageResult, ModelInfo } from './pipeline/image-request.ts'
import { toCall, toRefusal } from './remote-call.ts'

export interface RemoteTimes {
  /** A server that loads 36 GB of weights answers nobody for minutes. */
  startTimeoutMs: number
  /** Between two looks whether it has started. */
  startPauseMs: number
  /** The longest known picture takes 253 s on a card, and the server may have others in its queue. */
  pictureTimeoutMs: number
}

const DEFAULT_TIMES: RemoteTimes = {
  startTimeoutMs: 600_000,
  startPauseMs: 1_000,
  pictureTimeoutMs: 840_000,
}
/** For everything but pictures. */
const ANSWER_TIMEOUT_MS = 10_000
/** 2048x2048 as PNG in base 64 is some 17 MB; more is no picture of ours. */
const MAX_ANSWER_BYTES = 64 * 2 ** 20

const modelList = z.object({ data: z.array(z.object({ id: z.string() })).min(1) })
/** SGLang tells of itself here; its list of models is that of OpenAI in newer versions only. */
const modelCard = z.object({ model_path: z.string() })
const pictures = z.object({ data: z.array(z.object({ b64_json: z.string().min(1) })).length(1) })

/**
 * An engine that is a server of OpenAI's images protocol, such as SGLang or vLLM-Omni, instead of a process of ours.
 * Waits until the server is well. Pictures in the size that was asked for or not at all; a file in
 * another format is encoded anew.
 *
 * The weights are not seen from here: `weightsHash` says `remote:` and the name under which the server offers them.
 *
 * @param options.url with or without `/v1` at its end
 * @param options.slots calls that may run at once; the server decides what it makes of them
 * @param options.model which of its models; absent: the only one or the first
 * @throws EngineError `engine_unreachable` when it is not well in time, `model_invalid` when it lacks that model,
 *   `canceled`
 */
export async function openRemoteEngine(
  options: {
    url: string
    apiKey?: string
    model?: string
    slots?: number
    signal?: AbortSignal
  } & Partial<RemoteTimes>,
): Promise<Engine> {
  const times = { ...DEFAULT_TIMES, ...options }
  const server: Server = {
    base: options.url.replace(/\/+$/, '').replace(/\/v1$/, ''),
    headers: options.apiKey === undefined ? {} : { authorization: `Bearer ${options.apiKey}` },
    // The client's own limits on silence are below the time of a picture.
    agent: new Agent({ headersTimeout: 0, bodyTimeout: 0, connectTimeout: ANSWER_TIMEOUT_MS }),
  }
  try {
    await untilWell(server, times, options.signal)
    const served = await findModel(server, options.model)
    return toEngine(server, served, { ...times, slots: options.slots ?? 1 })
  } catch (error) {
    await server.agent.destroy()
    throw error
  }
}

interface Server {
  base: string
  headers: Record<string, string>
  agent: Agent
}

function toEngine(
  server: Server,
  served: string,
  { slots, ...times }: RemoteTimes & { slots: number },
): Engine {
  const serving = servingSchema.parse({})
  // Whether the server can edit is not told by its protocol; one that cannot answers an edit with 404.
  const info: ModelInfo = { ...serving, weightsHash: `remote:${served}`, provider: 'remote' }
  const closing = new AbortController()
  let running = 0
  return {
    info,
    pid: undefined,
    async generate(request, hooks = {}) {
      if (closing.signal.aborted) throw new EngineError('engine_closed', 'the engine is closed')
      if (running >= slots)
        throw new EngineError('engine_busy', 'the engine is making another picture')
      if (hooks.signal?.aborted) throw new EngineError('canceled', 'canceled before the start')
      const checked = checkRequest({ ...readSize(info.size.default), ...request }, info)
      running += 1
      try {
        const ends = { caller: hooks.signal, closing: closing.signal }
        return await draw(server, { served, checked, hooks, ends, times })
      } finally {
        running -= 1
      }
    },
    async close() {
      closing.abort()
      await server.agent.destroy()
    },
  }
}

async function untilWell(
  server: Server,
  times: RemoteTimes,
  signal: AbortSignal | undefined,
): Promise<void> {
  const giveUpAt = performance.now() + times.startTimeoutMs
  for (;;) {
    const problem = await healthProblem(server)
    if (problem === null) return
    if (signal?.aborted) throw new EngineError('canceled', 'canceled while the server started')
    if (performance.now() > giveUpAt) {
      throw new EngineError('engine_unreachable', `${server.base} is not well: ${problem}`)
    }
    await new Promise((resolve) => setTimeout(resolve, times.startPauseMs))
  }
}

/** Null when the server takes work. One without such an address is well when it lists its models. */
async function healthProblem(server: Server): Promise<string | null> {
  try {
    const health = await get(server, '/health')
    if (health.status === 404) await findModel(server, undefined)
    else if (health.status !== 200) return `GET /health answers ${health.status}`
    return null
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

async function findModel(server: Server, wanted: string | undefined): Promise<string> {
  const listed = modelList.safeParse((await get(server, '/v1/models')).json)
  const names = listed.success ? listed.data.data.map(({ id }) => id) : []
  if (names.length === 0) {
    const card = modelCard.safeParse((await get(server, '/models')).json)
    if (card.success) names.push(card.data.model_path)
  }
  const found = wanted === undefined ? names[0] : names.find((name) => name === wanted)
  if (found !== undefined) return found
  const offer = names.length === 0 ? 'none that it names' : names.join(', ')
  throw new EngineError(
    'model_invalid',
    `${server.base} offers ${offer}, not ${wanted ?? 'a model'}`,
  )
}

async function get(server: Server, path: string): Promise<{ status: number; json: unknown }> {
  const { statusCode, body } = await send(`${server.base}${path}`, {
    dispatcher: server.agent,
    headers: server.headers,
    signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS),
  })
  return { status: statusCode, json: parseJson(await readText(body)) }
}

interface Drawing {
  served: string
  checked: CheckedRequest
  hooks: GenerateHooks
  ends: { caller: AbortSignal | undefined; closing: AbortSignal }
  times: RemoteTimes
}

async function draw(server: Server, drawing: Drawing): Promise<ImageResult> {
  const { checked, hooks } = drawing
  const startedAt = performance.now()
  hooks.onProgress?.({ stage: 'denoise', step: 0, total: checked.steps })
  const file = await fetchPicture(server, drawing)
  hooks.onProgress?.({ stage: 'denoise', step: checked.steps, total: checked.steps })
  const drawnAt = performance.now()
  const { width, height, seed, steps, guidanceScale, format } = checked
  const encoded = await encodeFile(file, { width, height }, format).catch((cause: unknown) => {
    const text = cause instanceof Error ? cause.message : String(cause)
    throw new EngineError('engine_failed', `the server's picture is of no use: ${text}`, { cause })
  })
  const endedAt = performance.now()
  return {
    ...encoded,
    width,
    height,
    seed,
    steps,
    guidanceScale,
    // The server does not tell.
    tokenCount: 0,
    timingsMs: {
      remote: drawnAt - startedAt,
      encode: endedAt - drawnAt,
      total: endedAt - startedAt,
    },
  }
}

/** The bytes of the picture as the server made it. */
async function fetchPicture(server: Server, drawing: Drawing): Promise<Uint8Array> {
  const { served, checked, ends, times } = drawing
  const late = AbortSignal.timeout(times.pictureTimeoutMs)
  const stops = [late, ends.closing, ...(ends.caller === undefined ? [] : [ends.caller])]
  try {
    const call = toCall(served, checked)
    const { statusCode, body } = await send(`${server.base}${call.path}`, {
      method: 'POST',
      dispatcher: server.agent,
      headers: { ...server.headers, ...call.headers },
      body: call.body,
      signal: AbortSignal.any(stops),
    })
    const text = await readText(body)
    if (statusCode !== 200) throw toRefusal(call, statusCode, text)
    const answer = pictures.safeParse(parseJson(text))
    if (!answer.success) {
      throw new EngineError('engine_failed', 'the answer of the server holds no single picture')
    }
    return Buffer.from(answer.data.data[0]?.b64_json ?? '', 'base64')
  } catch (cause) {
    if (cause instanceof EngineError) throw cause
    if (ends.closing.aborted)
      throw new EngineError('engine_closed', 'the engine was closed', { cause })
    if (ends.caller?.aborted) throw new EngineError('canceled', 'canceled', { cause })
    if (late.aborted) {
      const text = `no picture in ${times.pictureTimeoutMs / 1000} s`
      throw new EngineError('engine_timeout', text, { cause })
    }
    const text = cause instanceof Error ? cause.message : String(cause)
    throw new EngineError('engine_unreachable', `${server.base}: ${text}`, { cause })
  }
}

async function readText(body: Dispatcher.ResponseData['body']): Promise<string> {
  const chunks: Uint8Array[] = []
  let size = 0
  for await (const chunk of body as AsyncIterable<Uint8Array>) {
    size += chunk.length
    if (size > MAX_ANSWER_BYTES) {
      throw new EngineError('engine_failed', `the answer is longer than ${MAX_ANSWER_BYTES} bytes`)
    }
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return null
  }
}
