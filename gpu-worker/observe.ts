import type { Engine } from './engine.ts'
import { EngineError } from './engine-error.ts'
import type { WorkerMetrics } from './metrics.ts'
import type { TextReader } from './ocr/reader.ts'
import type { PictureStore } from './store.ts'
import { describeActive, followStages, inSpan } from './tracing.ts'

/** Does one stage of a job under a span of its own and notes how long it took. @throws what `work` throws */
export async function measure<T>(
  metrics: WorkerMetrics | undefined,
  stage: string,
  work: () => Promise<T>,
): Promise<T> {
  const startedAt = performance.now()
  try {
    return await inSpan(stage, work)
  } finally {
    metrics?.stage(stage, (performance.now() - startedAt) / 1_000)
  }
}

/** Puts spans and figures around what a job works with, so that the jobs need not know of it. */
export function observeParts<
  Parts extends { engine: Engine; store: PictureStore; reader: TextReader },
>(parts: Parts, metrics: WorkerMetrics | undefined): Pick<Parts, 'engine' | 'store' | 'reader'> {
  const { engine, store, reader } = parts
  return {
    engine: observeEngine(engine, metrics),
    store: {
      ...store,
      put: (picture, signal) => measure(metrics, 'store', () => store.put(picture, signal)),
    },
    reader: {
      ...reader,
      read: (file, signal) => measure(metrics, 'read_back', () => reader.read(file, signal)),
    },
  }
}

/** The time of a stage is the engine's own word; its span is the time from report to report. */
function observeEngine(engine: Engine, metrics: WorkerMetrics | undefined): Engine {
  const draw: Engine['generate'] = async (request, hooks = {}) => {
    const stages = followStages()
    try {
      const result = await engine.generate(request, {
        ...hooks,
        onProgress(progress) {
          stages.note(progress)
          hooks.onProgress?.(progress)
        },
      })
      const { total = 0, ...byStage } = result.timingsMs
      for (const [stage, ms] of Object.entries(byStage)) metrics?.stage(stage, ms / 1_000)
      metrics?.engine(engine.info.provider, total / 1_000)
      return result
    } catch (error) {
      if (error instanceof EngineError) describeActive({ 'glyphpress.error': error.code })
      stages.end(error)
      throw error
    } finally {
      stages.end()
    }
  }
  return {
    get info() {
      return engine.info
    },
    get pid() {
      return engine.pid
    },
    generate: (request, hooks) => inSpan('draw', () => draw(request, hooks)),
    close: () => engine.close(),
  }
}
