import type { QuantisedWeights } from '../model/quantised.ts'
import type { TensorDtype, TensorIndex } from '../model/safetensors.ts'
import { CheckpointError } from '../model/checkpoint-error.ts'
import { DATA_TYPES, encodeModel } from './proto.ts'
import type { Attribute, Dim, Dtype, GraphBody, NodeInit } from './proto.ts'

export type { Dtype } from './proto.ts'

/** An edge of the graph: what a node, an input or a weight produces. */
export interface Value {
  readonly name: string
}

/** The body of a Loop or If, to be passed as an attribute. */
export type Subgraph = GraphBody

export type Attributes = Readonly<Record<string, Attribute>>

/** Element type in which the arithmetic runs; weights of another type are cast to it. */
export type ComputeType = 'float32' | 'bfloat16' | 'float16'

/** uint8 [rows, blocks, block size] around 128, and float32 [rows, blocks] in the compute type. */
export interface QuantisedMatrix {
  values: Value
  scales: Value
  blockSize: number
}

type ConstantData = readonly number[] | Float32Array | Int32Array | BigInt64Array

export interface GraphBuilder {
  readonly compute: ComputeType
  input(name: string, dtype: Dtype, shape: readonly Dim[]): Value
  /** Publishes a value under a name of its own. */
  output(value: Value, name: string, dtype: Dtype, shape: readonly Dim[]): void
  /** Adds a node with one output. A null input is an optional one left out. */
  op(
    type: string,
    inputs: readonly (Value | null)[],
    attributes?: Attributes,
    options?: { domain?: string },
  ): Value
  /** Adds a node with several outputs. */
  ops(
    type: string,
    inputs: readonly (Value | null)[],
    outputCount: number,
    attributes?: Attributes,
    options?: { domain?: string },
  ): Value[]
  /**
   * A tensor of the checkpoint, read by the runtime straight from its file; one initializer and at most
   * one Cast however often it is asked for. `stored` leaves the file's own type, for tables of which a
   * graph gathers a few rows.
   *
   * @throws CheckpointError naming the tensor when it is missing or has another shape
   */
  weight(
    tensorName: string,
    options?: { dtype?: Dtype | 'stored'; shape?: readonly number[] },
  ): Value
  /**
   * A matrix of the checkpoint in 8 bits, by blocks of its rows; null where the graph is not given any, or not this one.
   *
   * @param shape [rows, columns]
   * @throws CheckpointError when it has another shape
   */
  quantised(tensorName: string, shape: readonly [number, number]): QuantisedMatrix | null
  /** A small tensor written into the graph; equal ones are stored once. */
  constant(
    data: ConstantData,
    dtype: 'float32' | 'int32' | 'int64',
    shape: readonly number[],
  ): Value
  /** A zero-dimensional constant; for a compute type other than float32 it is cast. */
  scalar(value: number, dtype: Dtype): Value
  /** Builds the body of a control-flow node; it sees every value of the graph around it. */
  subgraph(name: string, build: (body: GraphBuilder) => void): Subgraph
  toBytes(): Uint8Array
}

/** Opset 21 is the newest whose operators all have CPU kernels in onnxruntime 1.30. */
const OPSETS = { '': 21, 'com.microsoft': 1 }

const FILE_DTYPES: Partial<Record<TensorDtype, Dtype>> = {
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
  I64: 'int64',
  I32: 'int32',
  U8: 'uint8',
  BOOL: 'bool',
}

interface Root {
  compute: ComputeType
  tensors: TensorIndex | null
  quantised: QuantisedWeights | null
  body: GraphBody
  shared: Map<string, Value>
  counter: number
}

/**
 * Starts an empty graph.
 *
 * @param options.tensors where `weight` looks names up
 * @param options.quantised where `quantised` does
 */
export function createGraph(options: {
  name: string
  tensors?: TensorIndex
  quantised?: QuantisedWeights
  compute: ComputeType
}): GraphBuilder {
  const body = emptyBody(options.name)
  const root: Root = {
    compute: options.compute,
    tensors: options.tensors ?? null,
    quantised: options.quantised ?? null,
    body,
    shared: new Map(),
    counter: 0,
  }
  return createBuilder(root, body)
}

function createBuilder(root: Root, body: GraphBody): GraphBuilder {
  const ops: GraphBuilder['ops'] = (type, inputs, count, attributes = {}, options = {}) => {
    const outputs = Array.from({ length: count }, () => freshName(root, type))
    body.nodes.push({
      type,
      domain: options.domain ?? '',
      inputs: inputs.map((value) => value?.name ?? ''),
      outputs,
      attributes,
    })
    return outputs.map((name) => ({ name }))
  }
  const op: GraphBuilder['op'] = (type, inputs, attributes, options) =>
    only(ops(type, inputs, 1, attributes, options))
  return {
    compute: root.compute,
    op,
    ops,
    input(name, dtype, shape) {
      body.inputs.push({ name, dtype, shape })
      return { name }
    },
    output(value, name, dtype, shape) {
      body.nodes.push(identity(value, name))
      body.outputs.push({ name, dtype, shape })
    },
    weight: (name, weightOptions = {}) => addWeight(root, root.tensors, name, weightOptions),
    quantised(name, [rows, columns]) {
      const { quantised } = root
      if (!quantised?.tensors.has(`${name}.values`)) return null
      const { blockSize, tensors } = quantised
      const blocks = Math.ceil(columns / blockSize)
      const part = (kind: string, size: { dtype?: 'stored'; shape: readonly number[] }) =>
        addWeight(root, tensors, `${name}.${kind}`, size)
      return {
        values: part('values', { dtype: 'stored', shape: [rows, blocks, blockSize] }),
        scales: part('scales', { shape: [rows, blocks] }),
        blockSize,
      }
    },
    constant: (data, dtype, shape) => addConstant(root, data, dtype, shape),
    scalar: (value, dtype) => addScalar(root, value, dtype),
    subgraph(name, build) {
      const inner = emptyBody(name)
      build(createBuilder(root, inner))
      return inner
    },
    toBytes: () => encodeModel(body, OPSETS),
  }
}

function addWeight(
  root: Root,
  tensors: TensorIndex | null,
  tensorName: string,
  options: { dtype?: Dtype | 'stored'; shape?: readonly number[] },
): Value {
  if (!tensors) throw new Error(`graph ${root.body.name} has no checkpoint for ${tensorName}`)
  const tensor = tensors.get(tensorName)
  const shape = options.shape ?? tensor.shape
  const expected = options.shape?.join(', ')
  if (expected !== undefined && expected !== tensor.shape.join(', ')) {
    throw new CheckpointError(
      `${tensor.file}: tensor ${tensorName} has shape [${tensor.shape.join(', ')}], expected [${expected}]`,
    )
  }
  const dtype = FILE_DTYPES[tensor.dtype]
  if (!dtype) {
    throw new CheckpointError(`${tensor.file}: tensor ${tensorName}: type ${tensor.dtype} unusable`)
  }
  const wanted = options.dtype === 'stored' ? dtype : (options.dtype ?? root.compute)
  return once(root, `weight ${tensorName} ${wanted}`, () => {
    const stored = once(root, `stored ${tensorName}`, () => {
      // The session's base folder for external data is '/', because a hub cache's symlinks leave any other.
      const location = tensor.file.replace(/^\//, '')
      const { offset, length } = tensor
      root.body.initializers.push({
        name: tensorName,
        dtype,
        shape,
        data: { location, offset, length },
      })
      return { name: tensorName }
    })
    return dtype === wanted ? stored : cast(root, stored, wanted)
  })
}

function addConstant(
  root: Root,
  data: ConstantData,
  dtype: 'float32' | 'int32' | 'int64',
  shape: readonly number[],
): Value {
  const values = Array.from(data as ArrayLike<number | bigint>)
  const key = `constant ${dtype} [${shape.join(',')}] ${values.join(',')}`
  return once(root, key, () => {
    const name = freshName(root, 'constant')
    const raw = new Uint8Array(toTyped(values, dtype).buffer)
    root.body.initializers.push({ name, dtype, shape, data: { raw } })
    return { name }
  })
}

function addScalar(root: Root, value: number, dtype: Dtype): Value {
  if (dtype === 'int64' || dtype === 'int32' || dtype === 'float32') {
    return addConstant(root, [value], dtype, [])
  }
  return once(root, `scalar ${dtype} ${value}`, () =>
    cast(root, addConstant(root, [value], 'float32', []), dtype),
  )
}

/** Casts of initializers stand in the outermost graph, where constant folding turns them into copies. */
function cast(root: Root, value: Value, to: Dtype): Value {
  const name = freshName(root, 'Cast')

  root.body.nodes.push({
    type: 'Cast',
    domain: '',
    inputs: [value.name],
    outputs: [name],
    attributes: { to: DATA_TYPES[to] },
  })
  return { name }
}

function toTyped(values: readonly (number | bigint)[], dtype: 'float32' | 'int32' | 'int64') {
  if (dtype === 'int64') return BigInt64Array.from(values, (value) => BigInt(value))
  if (dtype === 'int32') return Int32Array.from(values, Number)
  return Float32Array.from(values, Number)
}

function once(root: Root, key: string, make: () => Value): Value {
  const known = root.shared.get(key)
  if (known) return known
  const made = make()
  root.shared.set(key, made)
  return made
}

function identity(value: Value, name: string): NodeInit {
  return { type: 'Identity', domain: '', inputs: [value.name], outputs: [name], attributes: {} }
}

function freshName(root: Root, stem: string): string {
  root.counter += 1
  return `${stem}_${root.counter}`
}

function emptyBody(name: string): GraphBody {
  return { name, nodes: [], initializers: [], inputs: [], outputs: [] }
}

function only(values: Value[]): Value {
  const [value] = values
  if (!value) throw new Error('a node was added without an output')
  return value
}
