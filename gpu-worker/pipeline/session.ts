import * as ort from 'onnxruntime-node'

import { EngineError } from '../engine-error.ts'
import { createGraph } from '../onnx/graph.ts'

/** A named input or output of a graph. */
export type Feeds = Record<string, HostTensor>

/** A tensor in host memory, row-major. */
export interface HostTensor {
  readonly data: Float32Array | Int32Array | BigInt64Array | Uint8Array
  readonly shape: readonly number[]
}

export type Provider = 'cpu' | 'cuda'

export interface SessionOptions {
  threads?: number
  provider?: Provider
  /**
   * False leaves weights in the type of the file and casts them at each run: a session of any size then opens at
   * once in little memory, and each run is several times slower.
   */
  foldWeights?: boolean
  /** True refuses a graph of which the provider leaves any part to the processor. */
  isStrict?: boolean
}

export interface Session {
  /** Runs the graph once; blocks the event loop until it is done. Outputs belong to the caller. */
  run(feeds: Feeds, outputs?: readonly string[]): Promise<Feeds>
  /** Frees the weights. A later `run` throws. */
  close(): Promise<void>
}

/**
 * Opens a graph whose weights lie in the checkpoint's own files.
 *
 * Locations of external data are absolute paths without their first slash, so the base folder is '/'.
 * On the CPU weights are not prepacked: they stay mapped from the file, loading takes milliseconds, and the
 * arithmetic does not depend on a packed copy. Asking for a provider that is not there throws; there is no
 * silent fall-back.
 *
 * @param bytes an encoded ONNX model
 */
export async function openSession(
  bytes: Uint8Array,
  options: SessionOptions = {},
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
    extra: {
      ...(options.foldWeights === false
        ? { optimization: { disable_specified_optimizers: 'ConstantFolding' } }
        : {}),
      session: {
        ...(options.isStrict && { disable_cpu_ep_fallback: '1' }),
        model_external_initializers_file_folder_path: '/',
        disable_prepacking: provider === 'cpu' ? '1' : '0',
        use_device_allocator_for_initializers: provider === 'cpu' ? '0' : '1',
      },
    },
  })
  return {
    async run(feeds, outputs) {
      const inputs = Object.fromEntries(
        Object.entries(feeds).map(([name, tensor]) => [name, toOrt(tensor)]),
      )
      const results = await session.run(inputs, outputs ?? session.outputNames)
      return Object.fromEntries(
        Object.entries(results).map(([name, value]) => [name, fromOrt(value)]),
      )
    },
    close: () => session.release(),
  }
}

/**
 * Finds out whether a provider works at all, so that its absence is not taken for a fault of the model. A runtime that
 * would quietly leave the work to the processor counts as one without it.
 *
 * @throws EngineError `provider_unavailable` with the cure
 */
export async function requireProvider(provider: Provider): Promise<void> {
  if (provider === 'cpu') return
  const g = createGraph({ name: 'probe', compute: 'float32' })
  const x = g.input('x', 'float32', [1])
  g.output(g.op('Add', [x, x]), 'y', 'float32', [1])
  try {
    await (await openSession(g.toBytes(), { provider, isStrict: true })).close()
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new EngineError(
      'provider_unavailable',
      `provider ${provider} is not available: install onnxruntime's CUDA libraries (see .npmrc); ${reason}`,
      { cause },
    )
  }
}

/** The version of the runtime that is loaded. */
export const RUNTIME_VERSION: string = ort.env.versions.node ?? ort.env.versions.common

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
