/** A named input or output of a graph. */
export type Feeds = Record<string, HostTensor>

/** A tensor in host memory, row-major. */
export interface HostTensor {
  readonly data: Float32Array | Int32Array | BigInt64Array | Uint8Array
  readonly shape: readonly number[]
}

export type Provider = 'cpu' | 'cuda'

/**
 * How onnxruntime is reached: by its package's own binding, which blocks the event loop for a whole run and keeps nothing
 * on a card between two, or by the C interface of the library in the same package.
 */
export type Backend = 'node' | 'capi'

export interface SessionOptions {
  threads?: number
  provider?: Provider
  /** Absent: `DEFAULT_BACKEND`. */
  backend?: Backend
  /**
   * False leaves weights in the type of the file and casts them at each run: a session of any size then opens at
   * once in little memory, and each run is several times slower.
   */
  foldWeights?: boolean
  /**
   * True lays weights out anew for the kernels when the session is opened, on a processor too: those for 8 bits need it.
   */
  prepack?: boolean
  /** True refuses a graph of which the provider leaves any part to the processor. */
  isStrict?: boolean
}

export interface RunHooks {
  /** Ends a run in the middle, where the backend can; the other one does not look at it. */
  signal?: AbortSignal | undefined
}

export interface Session {
  /**
   * Runs the graph once. Outputs belong to the caller.
   *
   * @param outputs absent: all of the graph
   * @throws EngineError `canceled` when the signal ended it
   */
  run(feeds: Feeds, outputs?: readonly string[], hooks?: RunHooks): Promise<Feeds>
  /** Prepares runs that share inputs, which are brought to where the graph runs only once. */
  bind(shared: Feeds): BoundRun
  /** What keeps tensors of a graph where it runs; null where the backend cannot. */
  readonly device: Device | null
  /** Frees the weights and all that was made by this session. Running runs end first; a later one throws. */
  close(): Promise<void>
}

export interface BoundRun {
  /** Runs with these inputs and the shared ones. */
  run(feeds: Feeds, outputs: readonly string[], hooks?: RunHooks): Promise<Feeds>
  /** Safe to repeat; the session does it too when it is closed. */
  release(): void
}

export interface Device {
  /** Reserves a tensor; on a processor all zeros. */
  allocate(dtype: DeviceDtype, shape: readonly number[]): DeviceTensor
  /** As `bind` of the session, with tensors that the graph reads and writes in place. */
  bind(shared: Feeds, state: readonly StateTensor[]): BoundRun
}

export type DeviceDtype = 'float32' | 'bfloat16' | 'float16'

/** A tensor where the graph runs. */
export interface DeviceTensor {
  readonly dtype: DeviceDtype
  readonly shape: readonly number[]
  /** `count` places of the first axis from `start` on, in the same memory; gone when the whole is released. */
  part(start: number, count: number): DeviceTensor
  release(): void
}

/**
 * The input, the output or both that a tensor is bound to for good. An output may be a tensor of the caller, which each run
 * writes over.
 */
export type StateTensor =
  | { readonly input?: string; readonly output?: string; readonly tensor: DeviceTensor }
  | { readonly output: string; readonly host: HostTensor }
