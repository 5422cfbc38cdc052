import { setTimeout as wait } from 'node:timers/promises'
import { z } from 'zod'
import { startEngine } from '../engine.ts'
import { readSize } from '../model/serving.ts'

/** Something that draws, one picture at a time. */
export interface Target {
  /** Of the model, as it is named in reports. */
  readonly model: string
  /** Of the weights where they are known. */
  readonly weightsHash: string | null
  readonly notice: string | null
  draw(call: { prompt: string; seed: number }, signal: AbortSignal): Promise<Uint8Array>
  close(): Promise<void>
}

export interface TargetOptions {
  /** `local`, or the address of an API of OpenAI's images protocol, with or without `/v1`. */
  readonly target: string
  /** WIDTHxHEIGHT; absent: what the checkpoint or the API draws by itself. */
  readonly size?: string
  readonly modelDir: string
  readonly model?: string
  readonly apiKey?: string
}

/** @throws when the model cannot be opened; an API is first reached by the first picture */
export function openTarget(options: TargetOptions): Promise<Target> {
  return options.target === 'local' ? openLocal(options) : Promise.resolve(openApi(options))
}

async function openLocal({ modelDir, size }: TargetOptions): Promise<Target> {
  const engine = await startEngine({ modelDir })
  const { model, weightsHash, notice } = engine.info
  const { width, height } = readSize(size ?? engine.info.size.default)
  return {
    model,
    weightsHash,
    notice,
    async draw({ prompt, seed }, signal) {
      const request = { prompt, seed, width, height, format: 'png' as const }
      return (await engine.generate(request, { signal })).bytes
    },
    close: () => engine.close(),
  }
}

/** The longest known picture takes 253 s on a card; a queue may stand before it. */
const CALL_TIMEOUT_MS = 900_000
const MAX_TRIES = 5
const FIRST_PAUSE_MS = 1_000
/** An answer's wish for a pause is followed up to this. */
const MAX_PAUSE_MS = 60_000

const answerSchema = z.object({
  data: z.array(z.object({ b64_json: z.string().optional(), url: z.string().optional() })).min(1),
})

function openApi({ target, size, model = 'glm-image', apiKey }: TargetOptions): Target {
  const base = target.replace(/\/+$/, '').replace(/\/v1$/, '')
  const headers = {
    'content-type': 'application/json',
    ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
  }
  return {
    model,
    weightsHash: null,
    notice: null,
    async draw({ prompt, seed }, signal) {
      const body = { model, prompt, n: 1, seed, response_format: 'b64_json', ...(size && { size }) }
      const response = await callPatiently(signal, (bound) =>
        fetch(`${base}/v1/images/generations`, {
          method: 'POST',
          headers,
          body: JSON.stringify(body),
          signal: bound,
        }),
      )
      const [picture] = answerSchema.parse(await response.json()).data
      if (picture?.b64_json !== undefined) return Buffer.from(picture.b64_json, 'base64')
      const { url = '' } = picture ?? {}
      const file = await callPatiently(signal, (bound) => fetch(url, { signal: bound }))
      return new Uint8Array(await file.arrayBuffer())
    },
    close: () => Promise.resolve(),
  }
}

/** Repeats what may pass by itself: no answer, too many calls, an error of the server. @throws with the last answer */
async function callPatiently(
  signal: AbortSignal,
  call: (signal: AbortSignal) => Promise<Response>,
): Promise<Response> {
  for (let tries = 1; ; tries += 1) {
    const bound = AbortSignal.any([signal, AbortSignal.timeout(CALL_TIMEOUT_MS)])
    const answer = await call(bound).catch((error: unknown) => {
      if (signal.aborted || tries >= MAX_TRIES) throw error
      return null
    })
    if (answer?.ok) return answer
    const mayPass = answer === null || answer.status === 429 || answer.status >= 500
    if (!mayPass || tries >= MAX_TRIES) {
      const text = (await answer?.text())?.slice(0, 500) ?? ''
      throw new Error(`the API answers ${answer?.status}: ${text}`)
    }
    await answer?.body?.cancel()
    const wished = Number(answer?.headers.get('retry-after') ?? Number.NaN) * 1_000
    const pauseMs = Number.isFinite(wished) ? wished : FIRST_PAUSE_MS * 2 ** (tries - 1)
    await wait(Math.min(pauseMs, MAX_PAUSE_MS), undefined, { signal })
  }
}
