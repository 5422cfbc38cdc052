import { EngineError } from '../engine-error.ts'
import { createGraph } from '../onnx/graph.ts'
import type { Backend, Session, SessionOptions } from '../onnxruntime/backend.ts'

export type {
  Backend,
  BoundRun,
  Feeds,
  HostTensor,
  Provider,
  RunHooks,
  Session,
  SessionOptions,
} from '../onnxruntime/backend.ts'

export const BACKENDS = ['node', 'capi'] as const satisfies readonly Backend[]

/**
 * Where none is named, whatever the provider.
 *
 * Both are the same library and gave the same bytes for the same seed on one machine. On two quiet cores they take as long
 * (`npm run bench:engine`, half a billion parameters: a token 40 ms, of 4 pictures 69 against 65 by the C interface, of 16 130
 * against 116; a denoising step 2 to 7 percent less by the package's own), so the one that needs nothing more is taken. On a
 * card the C interface is expected to win, since the cache of a picture stays there from token to token; that was never run,
 * and `npm run bench:engine -- --provider cuda --backend both` decides it.
 */
export const DEFAULT_BACKEND: Backend = 'node'

export function backendOf({ backend }: Pick<SessionOptions, 'backend'>): Backend {
  return backend ?? DEFAULT_BACKEND
}

/** The version of the runtime behind a backend. */
export async function runtimeVersion(backend: Backend): Promise<string> {
  if (backend === 'capi') {
    return (await (await import('../onnxruntime/c-library.ts')).loadCLibrary()).version
  }
  return (await import('../onnxruntime/node-session.ts')).NODE_RUNTIME_VERSION
}

/**
 * Opens a graph whose weights lie in the checkpoint's own files.
 *
 * Locations of external data are absolute paths without their first slash, so the base folder is '/'. Asking for a provider
 * that is not there throws; there is no silent fall-back.
 *
 * @param bytes an encoded ONNX model
 */
export async function openSession(
  bytes: Uint8Array,
  options: SessionOptions = {},
): Promise<Session> {
  // Each is loaded only where it is used: the binding of one, the foreign function interface of the other.
  if (backendOf(options) === 'capi') {
    const { openCSession } = await import('../onnxruntime/c-session.ts')
    return openCSession(bytes, options)
  }
  const { openNodeSession } = await import('../onnxruntime/node-session.ts')
  return openNodeSession(bytes, options)
}

/**
 * Finds out whether a provider works at all, so that its absence is not taken for a fault of the model. A runtime that
 * would quietly leave the work to the processor counts as one without it.
 *
 * @throws EngineError `provider_unavailable` with the cure
 */
export async function requireProvider({
  provider = 'cpu',
  backend = DEFAULT_BACKEND,
}: Pick<SessionOptions, 'provider' | 'backend'>): Promise<void> {
  if (provider === 'cpu' && backend === 'node') return
  const g = createGraph({ name: 'probe', compute: 'float32' })
  const x = g.input('x', 'float32', [1])
  g.output(g.op('Add', [x, x]), 'y', 'float32', [1])
  const isStrict = provider !== 'cpu'
  try {
    await (await openSession(g.toBytes(), { provider, backend, isStrict })).close()
  } catch (cause) {
    if (cause instanceof EngineError) throw cause
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw new EngineError(
      'provider_unavailable',
      `provider ${provider} is not available: install onnxruntime's CUDA libraries (see .npmrc); ${reason}`,
      { cause },
    )
  }
}
