import { toFailure } from './engine-error.ts'
import type { EngineCommand, EngineModel, EngineReport } from './engine-messages.ts'
import { openPipeline } from './pipeline/glm-image.ts'
import type { LoadProgress, Pipeline } from './pipeline/glm-image.ts'
import type { ImageRequest } from './pipeline/image-request.ts'
import { openStagesInThreads } from './thread-stages.ts'

/**
 * The child that holds the model: a crash in native code ends this process and not the one that holds leases and
 * connections. The model runs in threads, so this one always hears its parent.
 */

/** Between two reports of the reading. */
const REPORT_MS = 500

let pipeline: Pipeline | null = null
const calls = new Map<number, AbortController>()

// The parent decides what an interrupt means; the terminal sends it to the whole process group.
process.on('SIGINT', () => {})
process.on('SIGTERM', () => {})
// A parent that is gone cannot use a result. An orderly exit would wait for a read that hangs on a lost disk.
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))
process.on('message', (command: EngineCommand) => void handle(command))

async function handle(command: EngineCommand): Promise<void> {
  switch (command.type) {
    case 'open':
      return openModel(command.model)
    case 'generate':
      return generate(command.callId, command.request)
    case 'cancel':
      calls.get(command.callId)?.abort()
      return
    case 'close':
      // A thread in the middle of a run cannot be ended, and nobody waits for what it does.
      if (calls.size > 0) process.kill(process.pid, 'SIGKILL')
      await pipeline?.close()
      process.exit(0)
  }
}

async function openModel(model: EngineModel): Promise<void> {
  try {
    const { modelDir, slots = 1, ...options } = model
    const onLoading = (progress: LoadProgress) => {
      // The last block of the weights and a few between.
      const isDue = progress.done === progress.total || performance.now() - saidAt >= REPORT_MS
      if (progress.part === 'read' && !isDue) return
      saidAt = performance.now()
      send({ type: 'loading', callId: null, progress })
    }
    let saidAt = -Infinity
    const own = { ...options, batch: slots, onLoading }
    pipeline = await openPipeline(modelDir, own, openStagesInThreads)
    send({ type: 'ready', callId: null, info: pipeline.info })
  } catch (error) {
    send({ type: 'failed', callId: null, failure: toFailure(error) })
  }
}

async function generate(callId: number, request: ImageRequest): Promise<void> {
  const controller = new AbortController()
  calls.set(callId, controller)
  try {
    if (!pipeline) throw new Error('generate before open')
    const result = await pipeline.generate(request, {
      signal: controller.signal,
      onProgress: (progress) => send({ type: 'progress', callId, progress }),
      onTokens: (tokens) => send({ type: 'tokens', callId, tokens }),
    })
    send({ type: 'result', callId, result })
  } catch (error) {
    send({ type: 'failed', callId, failure: toFailure(error) })
  } finally {
    calls.delete(callId)
  }
}

/** A send that fails means that the parent is gone; `disconnect` ends the process then. */
function send(report: EngineReport): void {
  process.send?.(report, undefined, undefined, () => {})
}
