/**
 * Writes the part of the ONNX protobuf format that our graphs need.
 *
 * Field numbers are those of onnx.proto (IR version 10). Repeated numbers are written unpacked, as the
 * proto2 schema of ONNX has them.
 */

/** Element types with the numbers of `TensorProto.DataType`. */
export const DATA_TYPES = {
  float32: 1,
  uint8: 2,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  bfloat16: 16,
} as const

export type Dtype = keyof typeof DATA_TYPES

/** A static size or the name of a symbolic one. */
export type Dim = number | string

export interface TensorInit {
  name: string
  dtype: Dtype
  shape: readonly number[]
  data: { raw: Uint8Array } | { location: string; offset: number; length: number }
}

export interface ValueInfo {
  name: string
  dtype: Dtype
  shape: readonly Dim[]
}

export type Attribute = number | bigint | string | readonly number[] | { float: number } | GraphBody

export interface NodeInit {
  type: string
  domain: string
  inputs: readonly string[]
  outputs: readonly string[]
  attributes: Readonly<Record<string, Attribute>>
}

export interface GraphBody {
  name: string
  nodes: NodeInit[]
  initializers: TensorInit[]
  inputs: ValueInfo[]
  outputs: ValueInfo[]
}

/** IR version 10 goes with opset 21 to 23; onnxruntime 1.30 reads it. */
const IR_VERSION = 10
const EXTERNAL_LOCATION = 1

const utf8 = new TextEncoder()

/**
 * Encodes a model. The bytes are the same for the same graph.
 *
 * @param opsets operator set version per domain; '' is the standard one
 */
export function encodeModel(
  graph: GraphBody,
  opsets: Readonly<Record<string, number>>,
): Uint8Array {
  const chunks: Uint8Array[] = [
    tag(1, 0),
    varint(BigInt(IR_VERSION)),
    text(2, 'glyphpress'),
    message(7, encodeGraph(graph)),
  ]
  for (const [domain, version] of Object.entries(opsets)) {
    chunks.push(message(8, [text(1, domain), integer(2, version)]))
  }
  return concat(chunks)
}

function encodeGraph(graph: GraphBody): Uint8Array[] {
  return [
    ...graph.nodes.map((node) => message(1, encodeNode(node))),
    text(2, graph.name),
    ...graph.initializers.map((tensor) => message(5, encodeTensor(tensor))),
    ...graph.inputs.map((value) => message(11, encodeValueInfo(value))),
    ...graph.outputs.map((value) => message(12, encodeValueInfo(value))),
  ]
}

function encodeNode(node: NodeInit): Uint8Array[] {
  const chunks = [
    ...node.inputs.map((name) => text(1, name)),
    ...node.outputs.map((name) => text(2, name)),
    text(4, node.type),
  ]
  for (const [name, value] of Object.entries(node.attributes)) {
    chunks.push(message(5, encodeAttribute(name, value)))
  }
  if (node.domain) chunks.push(text(7, node.domain))
  return chunks
}

function encodeAttribute(name: string, value: Attribute): Uint8Array[] {
  const head = text(1, name)
  if (typeof value === 'string') return [head, text(4, value), integer(20, 3)]
  if (typeof value === 'number' || typeof value === 'bigint') {
    return [head, integer(3, value), integer(20, 2)]
  }
  if ('float' in value) return [head, float(2, value.float), integer(20, 1)]
  if ('nodes' in value) return [head, message(6, encodeGraph(value)), integer(20, 5)]
  return [head, ...value.map((item) => integer(8, item)), integer(20, 7)]
}

function encodeTensor(tensor: TensorInit): Uint8Array[] {
  const chunks = [
    ...tensor.shape.map((size) => integer(1, size)),
    integer(2, DATA_TYPES[tensor.dtype]),
    text(8, tensor.name),
  ]
  if ('raw' in tensor.data) return [...chunks, bytes(9, tensor.data.raw)]
  const { location, offset, length } = tensor.data
  const entry = (key: string, value: string) => message(13, [text(1, key), text(2, value)])
  return [
    ...chunks,
    entry('location', location),
    entry('offset', String(offset)),
    entry('length', String(length)),
    integer(14, EXTERNAL_LOCATION),
  ]
}

function encodeValueInfo(value: ValueInfo): Uint8Array[] {
  const dims = value.shape.map((dim) =>
    message(1, [typeof dim === 'number' ? integer(1, dim) : text(2, dim)]),
  )
  const tensorType = [integer(1, DATA_TYPES[value.dtype]), message(2, dims)]
  return [text(1, value.name), message(2, [message(1, tensorType)])]
}

function tag(field: number, wireType: number): Uint8Array {
  return varint(BigInt((field << 3) | wireType))
}

function integer(field: number, value: number | bigint): Uint8Array {
  return concat([tag(field, 0), varint(BigInt.asUintN(64, BigInt(value)))])
}

function float(field: number, value: number): Uint8Array {
  return concat([tag(field, 5), new Uint8Array(new Float32Array([value]).buffer)])
}

function text(field: number, value: string): Uint8Array {
  return bytes(field, utf8.encode(value))
}

function message(field: number, chunks: readonly Uint8Array[]): Uint8Array {
  return bytes(field, concat(chunks))
}

function bytes(field: number, value: Uint8Array): Uint8Array {
  return concat([tag(field, 2), varint(BigInt(value.length)), value])
}

function varint(value: bigint): Uint8Array {
  const out: number[] = []
  let rest = value
  do {
    const low = Number(rest & 0x7fn)
    rest >>= 7n
    out.push(rest > 0n ? low | 0x80 : low)
  } while (rest > 0n)
  return Uint8Array.from(out)
}

function concat(chunks: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0))
  let at = 0
  for (const chunk of chunks) {
    out.set(chunk, at)
    at += chunk.length
  }
  return out
}
