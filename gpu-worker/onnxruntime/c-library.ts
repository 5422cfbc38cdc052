import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import type * as koffiModule from 'koffi'
import { EngineError } from '../engine-error.ts'

/** An address in native memory; null is no address. */
export type Pointer = bigint | null

/** An array stands for the address of its first element; a call that runs elsewhere takes none. */
type Argument = Pointer | number | string | BigUint64Array | BigInt64Array

/** What the C interface is called by here. Errors are those of the runtime, with its message. */
export interface CLibrary {
  /** The library is unloaded when this is collected. */
  readonly handle: unknown
  readonly version: string
  /** Where the library lies, and its providers beside it. */
  readonly folder: string
  /**
   * What sessions are made in. It stays: with the last one the runtime ends parts of itself that it needs for the next, in
   * whichever thread that would be.
   */
  readonly environment: bigint
  /** Calls a function whose only result is whether it failed. */
  call(name: Operation, ...args: Argument[]): void
  /** The same on another thread: the event loop goes on. */
  callElsewhere(name: Operation, ...args: Argument[]): Promise<void>
  /** Calls a function that leaves a pointer or a size at the address of its last argument. */
  make(name: Operation, ...args: Argument[]): bigint
  makeElsewhere(name: Operation, ...args: Argument[]): Promise<bigint>
  release(name: Release, pointer: bigint): void
  /** Host memory at an address, as long as its owner keeps it. */
  view(pointer: bigint, byteLength: number): ArrayBuffer
  /** A text that ends with a zero. */
  readText(pointer: bigint): string
  /** Where the bytes of a buffer begin. Whoever asks keeps the buffer as long as the address is used. */
  addressOf(buffer: ArrayBufferLike): bigint
}

const POINTER = 'void *'

/**
 * Places in the table of functions, and the arguments before the last one of those that leave something there. The table
 * only grows from version to version, so places are for good.
 *
 * @source onnxruntime_c_api.h of release 1.30, `struct OrtApi`
 */
const OPERATIONS = {
  CreateEnv: [3, ['int', 'str', POINTER]],
  CreateSessionFromArray: [8, [POINTER, POINTER, 'size_t', POINTER, POINTER]],
  CreateSessionOptions: [10, [POINTER]],
  SetSessionExecutionMode: [13, [POINTER, 'int']],
  SetSessionLogSeverityLevel: [22, [POINTER, 'int']],
  SetSessionGraphOptimizationLevel: [23, [POINTER, 'int']],
  SetIntraOpNumThreads: [24, [POINTER, 'int']],
  SetInterOpNumThreads: [25, [POINTER, 'int']],
  SessionGetOutputCount: [31, [POINTER, POINTER]],
  SessionGetOutputName: [37, [POINTER, 'size_t', POINTER, POINTER]],
  CreateRunOptions: [39, [POINTER]],
  RunOptionsSetTerminate: [46, [POINTER]],
  CreateTensorAsOrtValue: [48, [POINTER, POINTER, 'size_t', 'int', POINTER]],
  CreateTensorWithDataAsOrtValue: [
    49,
    [POINTER, POINTER, 'size_t', POINTER, 'size_t', 'int', POINTER],
  ],
  GetTensorMutableData: [51, [POINTER, POINTER]],
  GetTensorElementType: [60, [POINTER, POINTER]],
  GetDimensionsCount: [61, [POINTER, POINTER]],
  GetDimensions: [62, [POINTER, POINTER, 'size_t']],
  GetTensorTypeAndShape: [65, [POINTER, POINTER]],
  CreateMemoryInfo: [68, ['str', 'int', 'int', 'int', POINTER]],
  CreateCpuMemoryInfo: [69, ['int', 'int', POINTER]],
  AllocatorFree: [76, [POINTER, POINTER]],
  GetAllocatorWithDefaultOptions: [78, [POINTER]],
  AddSessionConfigEntry: [130, [POINTER, 'str', 'str']],
  CreateAllocator: [131, [POINTER, POINTER, POINTER]],
  RunWithBinding: [133, [POINTER, POINTER, POINTER]],
  CreateIoBinding: [134, [POINTER, POINTER]],
  BindInput: [136, [POINTER, 'str', POINTER]],
  BindOutput: [137, [POINTER, 'str', POINTER]],
  BindOutputToDevice: [138, [POINTER, 'str', POINTER]],
  GetBoundOutputValues: [140, [POINTER, POINTER, POINTER, POINTER]],
  SessionOptionsAppendExecutionProvider_CUDA_V2: [204, [POINTER, POINTER]],
  CreateCUDAProviderOptions: [205, [POINTER]],
  UpdateCUDAProviderOptions: [206, [POINTER, POINTER, POINTER, 'size_t']],
} as const

const RELEASES = {
  ReleaseStatus: 93,
  ReleaseMemoryInfo: 94,
  ReleaseSession: 95,
  ReleaseValue: 96,
  ReleaseRunOptions: 97,
  ReleaseTensorTypeAndShapeInfo: 99,
  ReleaseSessionOptions: 100,
  ReleaseAllocator: 132,
  ReleaseIoBinding: 135,
  ClearBoundOutputs: 142,
  ReleaseCUDAProviderOptions: 208,
} as const

const GET_ERROR_MESSAGE = 2

/** `OrtLoggingLevel`: only what ends the process. Errors come as statuses, and one that is wanted, a cancel, is among them. */
export const LOG_FATAL = 4

type Operation = keyof typeof OPERATIONS
export type Release = keyof typeof RELEASES

/** The version of the table that is asked for: of release 1.22, which has all of the above. */
const API_VERSION = 22

/** Kernels run on koffi's stack, which is 128 KiB on other threads if nothing is said. */
const STACK_BYTES = 8 * 2 ** 20

let loaded: Promise<CLibrary> | null = null

/**
 * Loads the library that the package onnxruntime-node carries, once per thread.
 *
 * @throws EngineError `provider_unavailable` when koffi's native part or the library is missing, or its version is
 *   another than the package's
 */
export function loadCLibrary(): Promise<CLibrary> {
  loaded ??= load()
  return loaded
}

async function load(): Promise<CLibrary> {
  const { koffi, path, expected } = await find().catch((cause: unknown) => {
    const reason = cause instanceof Error ? cause.message : String(cause)
    throw unavailable(reason, cause)
  })
  // The first call fixes the sizes; a library that was loaded before is no reason to fail.
  koffi.config({ async_stack_size: STACK_BYTES, sync_stack_size: STACK_BYTES })
  const handle = koffi.load(path)
  const base: bigint = handle.func('OrtGetApiBase', POINTER, [])()
  const at = (table: bigint, place: number, result: string, args: readonly string[]) =>
    koffi.decode(
      koffi.decode(table, place * 8, POINTER),
      koffi.proto(result, [...args]),
    ) as NativeFunction
  const version = String(at(base, 1, 'str', [])())
  requireVersion(version, expected)
  const api = at(base, 0, POINTER, ['uint32'])(API_VERSION)
  if (typeof api !== 'bigint') throw unavailable(`it has no interface of version ${API_VERSION}`)
  return createLibrary({
    koffi,
    handle,
    at: (...place) => at(api, ...place),
    version,
    folder: dirname(path),
  })
}

type NativeFunction = {
  (...args: Argument[]): unknown
  async(...args: [...Argument[], (error: unknown, result: unknown) => void]): void
}

type Koffi = typeof koffiModule
type LibraryHandle = ReturnType<Koffi['load']>

async function find(): Promise<{ koffi: Koffi; path: string; expected: string }> {
  const koffi = await import('koffi')
  const manifest = createRequire(import.meta.url).resolve('onnxruntime-node/package.json')
  const expected = String(JSON.parse(readFileSync(manifest, 'utf8')).version)
  const folder = join(dirname(manifest), 'bin/napi-v6', process.platform, process.arch)
  const file = readdirSync(folder).find((name) => /^(lib)?onnxruntime\.(so|dll|\d)/.test(name))
  if (file === undefined) throw new Error(`${folder} has no onnxruntime library`)
  return { koffi, path: join(folder, file), expected }
}

/** @throws EngineError `provider_unavailable`: places in the table are known for one release only */
export function requireVersion(version: string, expected: string): void {
  if (version === expected) return
  throw unavailable(
    `the library is onnxruntime ${version}, the package onnxruntime-node ${expected}`,
  )
}

function unavailable(reason: string, cause?: unknown): EngineError {
  const message = `backend capi is not available: ${reason}`
  return new EngineError('provider_unavailable', message, { cause })
}

function createLibrary(parts: {
  koffi: Koffi
  handle: LibraryHandle
  at: (place: number, result: string, args: readonly string[]) => NativeFunction
  version: string
  folder: string
}): CLibrary {
  const { koffi, at, version, folder } = parts
  const messageOf = at(GET_ERROR_MESSAGE, 'str', [POINTER])
  const operations = mapValues(OPERATIONS, ([place, args]) => at(place, POINTER, args))
  const releases = mapValues(RELEASES, (place) => at(place, 'void', [POINTER]))
  const check = (name: Operation, status: unknown) => {
    if (typeof status !== 'bigint') return
    const message = String(messageOf(status))
    releases.ReleaseStatus(status)
    throw new Error(`onnxruntime ${name}: ${message}`)
  }
  const callElsewhere: CLibrary['callElsewhere'] = (name, ...args) =>
    new Promise((resolve, reject) => {
      operations[name].async(...args, (error, status) => {
        try {
          if (error)
            throw error instanceof Error ? error : new Error('the call failed', { cause: error })
          check(name, status)
          resolve()
        } catch (reason) {
          reject(reason)
        }
      })
    })
  const addressOf = (buffer: ArrayBufferLike) => koffi.address(buffer)
  const make: CLibrary['make'] = (name, ...args) => {
    const place = new BigUint64Array(1)
    check(name, operations[name](...args, place))
    return place[0] ?? 0n
  }
  return {
    handle: parts.handle,
    version,
    folder,
    environment: make('CreateEnv', LOG_FATAL, 'glyphpress'),
    call: (name, ...args) => check(name, operations[name](...args)),
    callElsewhere,
    make,
    async makeElsewhere(name, ...args) {
      const place = new BigUint64Array(new ArrayBuffer(8))
      await callElsewhere(name, ...args, addressOf(place.buffer))
      return place[0] ?? 0n
    },
    release: (name, pointer) => void releases[name](pointer),
    view: (pointer, byteLength) => koffi.view(pointer, byteLength),
    readText: (pointer) => koffi.decode.string(pointer),
    addressOf,
  }
}

function mapValues<Key extends string, From, To>(
  record: Readonly<Record<Key, From>>,
  change: (value: From) => To,
): Record<Key, To> {
  return Object.fromEntries(
    Object.entries<From>(record).map(([key, value]) => [key, change(value)]),
  ) as Record<Key, To>
}

/** @returns whether a file lies beside the library */
export function hasProviderFile({ folder }: CLibrary, name: string): boolean {
  return existsSync(join(folder, name))
}
