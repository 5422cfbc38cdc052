import { parentPort, workerData } from 'node:worker_threads'
import { toFailure } from './engine-error.ts'
import { openCheckpoint } from './model/checkpoint.ts'
import { openHalf } from './pipeline/glm-image.ts'
import type { PaintInput } from './pipeline/painter-stage.ts'
import type { StageHooks } from './pipeline/stage.ts'
import type { WriteInput } from './pipeline/writer-stage.ts'
import type { StageCommand, StageReport, StageThreadData } from './stage-messages.ts'

/**
 * A thread that holds one half of the model. onnxruntime blocks the thread of a run, so each half has one of its own:
 * one picture is painted while the layouts of others are written, and the main thread hears of a cancel at once.
 */

interface OpenedHalf {
  run(input: unknown, hooks: StageHooks): Promise<unknown>
  close(): Promise<void>
}

if (parentPort) await serve(parentPort, workerData as StageThreadData)

async function serve(port: NonNullable<typeof parentPort>, data: StageThreadData): Promise<void> {
  const send = (report: StageReport) => port.postMessage(report)
  const calls = new Map<number, AbortController>()
  let half: OpenedHalf
  try {
    half = await open(data)
  } catch (error) {
    return send({ type: 'failed', callId: null, failure: toFailure(error) })
  }
  const run = async (callId: number, input: unknown) => {
    const controller = new AbortController()
    calls.set(callId, controller)
    try {
      const output = await half.run(input, {
        signal: controller.signal,
        onProgress: (progress) => send({ type: 'progress', callId, progress }),
      })
      send({ type: 'done', callId, output })
    } catch (error) {
      send({ type: 'failed', callId, failure: toFailure(error) })
    } finally {
      calls.delete(callId)
    }
  }
  port.on('message', (command: StageCommand) => {
    switch (command.type) {
      case 'run':
        void run(command.callId, command.input)
        return
      case 'cancel':
        calls.get(command.callId)?.abort()
        return
      case 'close':
        void half.close().then(() => port.close())
    }
  })
  send({ type: 'ready' })
}

async function open({ half, modelDir, options }: StageThreadData): Promise<OpenedHalf> {
  const checkpoint = await openCheckpoint(modelDir)
  // The other side of the port has the types; what arrives here is what it sent.
  if (half === 'writer') {
    const writer = await openHalf.writer(checkpoint, options)
    return { ...writer, run: (input, hooks) => writer.run(input as WriteInput, hooks) }
  }
  const painter = await openHalf.painter(checkpoint, options)
  return { ...painter, run: (input, hooks) => painter.run(input as PaintInput, hooks) }
}
