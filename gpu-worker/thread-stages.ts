import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { EngineError, ofFailure } from './engine-error.ts'
import type { OpenStages } from './pipeline/glm-image.ts'
import type { Painted, PaintInput } from './pipeline/painter-stage.ts'
import type { Stage, StageHooks } from './pipeline/stage.ts'
import type { WriteInput, Written } from './pipeline/writer-stage.ts'
import type { StageCommand, StageReport, StageThreadData } from './stage-messages.ts'

/**
 * Opens each half of the model in a thread of its own, both at the same time.
 *
 * A cancel is answered at once; the thread leaves the call out when its run ends. A thread that dies takes the process
 * with it: what it left in the runtime's memory is nothing to go on with.
 */
export const openStagesInThreads: OpenStages = async ({ dir: modelDir }, options) => {
  const [writer, painter] = await Promise.all([
    openThread<WriteInput, Written>({ half: 'writer', modelDir, options }),
    openThread<PaintInput, Painted>({ half: 'painter', modelDir, options }),
  ])
  return { writer, painter }
}

interface Call {
  hooks: StageHooks
  resolve: (output: unknown) => void
  reject: (error: unknown) => void
}

async function openThread<Input, Output>(data: StageThreadData): Promise<Stage<Input, Output>> {
  const thread = new Worker(new URL('./stage-thread.ts', import.meta.url), { workerData: data })
  const calls = new Map<number, Call>()
  let lastCallId = 0
  let isClosing = false
  const send = (command: StageCommand) => thread.postMessage(command)
  thread.on('exit', (code) => {
    if (!isClosing) throw new Error(`the thread of the ${data.half} ended: ${code}`)
  })
  await new Promise<void>((resolve, reject) => {
    thread.on('message', (report: StageReport) => {
      if (report.type === 'ready') resolve()
      else if (report.callId !== null) answer(calls, report.callId, report)
      else if (report.type === 'failed') {
        isClosing = true
        reject(ofFailure(report.failure))
      }
    })
  })
  return {
    run(input, hooks) {
      lastCallId += 1
      const callId = lastCallId
      return new Promise((resolve, reject) => {
        const onAbort = () => {
          if (!calls.delete(callId)) return
          send({ type: 'cancel', callId })
          reject(new EngineError('canceled', 'canceled', { cause: hooks.signal?.reason }))
        }
        const done = (output: unknown) => {
          hooks.signal?.removeEventListener('abort', onAbort)
          resolve(output as Output)
        }
        calls.set(callId, { hooks, resolve: done, reject })
        send({ type: 'run', callId, input })
        hooks.signal?.addEventListener('abort', onAbort, { once: true })
        if (hooks.signal?.aborted) onAbort()
      })
    },
    async close() {
      isClosing = true
      send({ type: 'close' })
      await once(thread, 'exit')
    },
  }
}

/** What comes for a call that was canceled is nobody's. */
function answer(calls: Map<number, Call>, callId: number, report: StageReport): void {
  const call = calls.get(callId)
  if (!call) return
  if (report.type === 'progress') return call.hooks.onProgress?.(report.progress)
  calls.delete(callId)
  if (report.type === 'done') call.resolve(report.output)
  if (report.type === 'failed') call.reject(ofFailure(report.failure))
}
