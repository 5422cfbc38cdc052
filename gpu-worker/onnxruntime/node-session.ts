import * as ort from 'onnxruntime-node'
import type { Feeds, HostTensor, Session, SessionOptions } from './backend.ts'
import { configEntries } from './session-config.ts'

/**
 * Opens a graph by onnxruntime's own binding. Every run, and the opening, blocks the event loop until it is done; what goes
 * in and comes out passes through host memory.
 */
export async function openNodeSession(
  bytes: Uint8Array,
  options: SessionOptions,
): Promise<Session> {
  const provider = options.provider ?? 'cpu'
  const session = await ort.InferenceSession.create(bytes, {
    executionProviders: provider === 'cuda' ? ['cuda'] : ['cpu'],
    ...(options.threads === undefined ? {} : { intraOpNumThreads: options.threads }),
    interOpNumThreads: 1,
    executionMode: 'sequential',
    graphOptimizationLevel: 'all',
    // Level 3: errors only. Warnings name graph internals that no operator can act on.
    logSeverityLevel: 3,
    extra: configEntries(options),
  })
  const run = async (feeds: Feeds, outputs: readonly string[] = session.outputNames) => {
    const inputs = Object.fromEntries(
      Object.entries(feeds).map(([name, tensor]) => [name, toOrt(tensor)]),
    )
    const results = await session.run(inputs, outputs)
    return Object.fromEntries(
      Object.entries(results).map(([name, value]) => [name, fromOrt(value)]),
    )
  }
  return {
    run,
    bind: (shared) => ({
      run: (feeds, outputs) => run({ ...shared, ...feeds }, outputs),
      release() {},
    }),
    device: null,
    close: () => session.release(),
  }
}

/** The version of the library that the binding loaded. */
export const NODE_RUNTIME_VERSION: string = ort.env.versions.node ?? ort.env.versions.common

function toOrt(tensor: HostTensor): ort.Tensor {
  const { data, shape } = tensor
  if (data instanceof Float32Array) return new ort.Tensor('float32', data, shape)
  if (data instanceof BigInt64Array) return new ort.Tensor('int64', data, shape)
  if (data instanceof Int32Array) return new ort.Tensor('int32', data, shape)
  return new ort.Tensor('bool', data, shape)
}

function fromOrt(value: ort.OnnxValue): HostTensor {
  if (!(value instanceof ort.Tensor))
    throw new Error('the graph gave something other than a tensor')
  const { data } = value
  if (
    data instanceof Float32Array ||
    data instanceof BigInt64Array ||
    data instanceof Int32Array ||
    data instanceof Uint8Array
  ) {
    return { data, shape: value.dims }
  }
  throw new Error(`the graph gave elements of type ${value.type}, which is not supported`)
}
