import type { DeviceDtype, DeviceTensor, HostTensor } from './backend.ts'
import type { Handle, Owner } from './c-handles.ts'
import type { CLibrary } from './c-library.ts'

/** What tensors are made with: all of it belongs to a session. */
export interface TensorMaker {
  readonly library: CLibrary
  readonly owner: Owner
  /** Of the processor. */
  readonly hostMemory: bigint
  /** Of the card, and what reserves there; null on a processor. */
  readonly card: { memory: bigint; allocator: bigint } | null
}

/** A tensor of the runtime over memory that this side keeps. */
export interface Value {
  readonly handle: Handle
  /** What must not be collected before the handle is released. */
  readonly memory: unknown
}

/** Element types by the numbers of `ONNXTensorElementDataType`. */
const FLOAT32 = 1
const UINT8 = 2
const INT32 = 6
const INT64 = 7
const BOOL = 9
const DEVICE_TYPES = { float32: FLOAT32, float16: 10, bfloat16: 16 } as const
const DEVICE_BYTES = { float32: 4, float16: 2, bfloat16: 2 } as const

/** Stands in for a buffer of no bytes, which has no address. */
const NOTHING = new ArrayBuffer(8)

/** Lends a tensor to the runtime without a copy: what lies in it when a run begins is what the graph reads. */
export function lendTensor(maker: TensorMaker, { data, shape }: HostTensor): Value {
  const isEmpty = data.byteLength === 0
  const { library, hostMemory } = maker
  const address = isEmpty
    ? library.addressOf(NOTHING)
    : library.addressOf(data.buffer) + BigInt(data.byteOffset)
  const place = { memory: hostMemory, address, byteLength: data.byteLength }
  return { handle: createValue(maker, place, { shape, type: typeOf(data) }), memory: data }
}

/** Copies a tensor of the processor's memory out of the runtime. */
export function readTensor(library: CLibrary, value: bigint): HostTensor {
  const info = library.make('GetTensorTypeAndShape', value)
  try {
    const type = Number(library.make('GetTensorElementType', info))
    const rank = Number(library.make('GetDimensionsCount', info))
    const dims = new BigInt64Array(rank)
    library.call('GetDimensions', info, dims, rank)
    const shape = Array.from(dims, Number)
    const count = shape.reduce((product, size) => product * size, 1)
    return { data: copyElements(library, value, { type, count }), shape }
  } finally {
    library.release('ReleaseTensorTypeAndShapeInfo', info)
  }
}

/** Reserves a tensor where the graph runs. */
export function allocateTensor(
  maker: TensorMaker,
  dtype: DeviceDtype,
  shape: readonly number[],
): DeviceTensor & DevicePlace {
  const { library, owner, card } = maker
  const byteLength = DEVICE_BYTES[dtype] * shape.reduce((product, size) => product * size, 1)
  if (!card) {
    const buffer = new ArrayBuffer(Math.max(8, byteLength))
    const address = library.addressOf(buffer)
    return createDeviceTensor(maker, { dtype, shape, address, memory: buffer, whole: null })
  }
  const type = DEVICE_TYPES[dtype]
  const dims = BigInt64Array.from(shape, BigInt)
  const made = library.make('CreateTensorAsOrtValue', card.allocator, dims, shape.length, type)
  const whole = owner.own('ReleaseValue', made)
  const address = library.make('GetTensorMutableData', made)
  return createDeviceTensor(maker, { dtype, shape, address, memory: whole, whole })
}

/** What a device tensor has beside what its user sees. */
export interface DevicePlace {
  readonly value: Value
}

function createDeviceTensor(
  maker: TensorMaker,
  own: {
    dtype: DeviceDtype
    shape: readonly number[]
    address: bigint
    memory: unknown
    /** The value that holds the memory, where it is not this side's. */
    whole: Handle | null
  },
): DeviceTensor & DevicePlace {
  const { dtype, shape, address, memory } = own
  const [, ...rest] = shape
  const rowBytes = rest.reduce((product, size) => product * size, DEVICE_BYTES[dtype])
  const place = {
    memory: maker.card?.memory ?? maker.hostMemory,
    address,
    byteLength: rowBytes * (shape[0] ?? 1),
  }
  const handle = createValue(maker, place, { shape, type: DEVICE_TYPES[dtype] })
  return {
    dtype,
    shape,
    value: { handle, memory },
    part(start, count) {
      const from = address + BigInt(start * rowBytes)
      return createDeviceTensor(maker, {
        ...own,
        shape: [count, ...rest],
        address: from,
        whole: null,
      })
    },
    release() {
      handle.release()
      own.whole?.release()
    },
  }
}

function createValue(
  { library, owner }: TensorMaker,
  place: { memory: bigint; address: bigint; byteLength: number },
  { shape, type }: { shape: readonly number[]; type: number },
): Handle {
  const dims = BigInt64Array.from(shape, BigInt)
  const made = library.make(
    'CreateTensorWithDataAsOrtValue',
    place.memory,
    place.address,
    place.byteLength,
    dims,
    shape.length,
    type,
  )
  return owner.own('ReleaseValue', made)
}

function typeOf(data: HostTensor['data']): number {
  if (data instanceof Float32Array) return FLOAT32
  if (data instanceof BigInt64Array) return INT64
  if (data instanceof Int32Array) return INT32
  return BOOL
}

function copyElements(
  library: CLibrary,
  value: bigint,
  { type, count }: { type: number; count: number },
): HostTensor['data'] {
  const create = CREATORS[type]
  if (!create) throw new Error(`the graph gave elements of type ${type}, which is not supported`)
  const { byteLength, wrap } = create(count)
  if (byteLength === 0) return wrap(new ArrayBuffer(0))
  const address = library.make('GetTensorMutableData', value)
  return wrap(library.view(address, byteLength).slice(0))
}

const CREATORS: Partial<
  Record<
    number,
    (count: number) => { byteLength: number; wrap: (buffer: ArrayBuffer) => HostTensor['data'] }
  >
> = {
  [FLOAT32]: (count) => ({ byteLength: 4 * count, wrap: (buffer) => new Float32Array(buffer) }),
  [INT32]: (count) => ({ byteLength: 4 * count, wrap: (buffer) => new Int32Array(buffer) }),
  [INT64]: (count) => ({ byteLength: 8 * count, wrap: (buffer) => new BigInt64Array(buffer) }),
  [UINT8]: (count) => ({ byteLength: count, wrap: (buffer) => new Uint8Array(buffer) }),
  [BOOL]: (count) => ({ byteLength: count, wrap: (buffer) => new Uint8Array(buffer) }),
}
