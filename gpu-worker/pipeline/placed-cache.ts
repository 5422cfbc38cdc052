import type { AutoregressiveConfig } from '../model/config.ts'
import { createGraph } from '../onnx/graph.ts'
import type { Device, DeviceDtype, DeviceTensor } from '../onnxruntime/backend.ts'
import { cacheNames } from './decoder-cache.ts'
import { openSession } from './session.ts'
import type { BoundRun, Feeds, SessionOptions } from './session.ts'

/** Keys and values of some places for pictures, in memory that the decoder reads and writes. */
export interface PlacedCache {
  /** Makes room for so many tokens in every place; what lies there stays. */
  reserve(tokens: number): Promise<void>
  /** Runs over one place, which leave these results in tensors of the caller. The caller releases it. */
  bindRow(place: number, results: Feeds): BoundRun
  /** Runs over all places, in the same way; good until more room is made. */
  bindAll(results: Feeds): BoundRun
}

/** Capacities are multiples of this, so that few pictures make a batch grow. */
const CAPACITY_STEP = 256

export function createPlacedCache(
  device: Device,
  config: AutoregressiveConfig,
  options: SessionOptions & { rowCount: number; dtype: DeviceDtype },
): PlacedCache {
  const { rowCount, dtype } = options
  const names = cacheNames(config)
  let capacity = 0
  let tensors: DeviceTensor[] = []
  let all: BoundRun | null = null
  const allocate = (tokens: number) =>
    device.allocate(dtype, [rowCount, config.keyValueHeadCount, tokens, config.headDim])
  const bind = (results: Feeds, partOf: (tensor: DeviceTensor) => DeviceTensor) => {
    const hosts = Object.entries(results).map(([output, host]) => ({ output, host }))
    const caches = names.map((name, index) => {
      const tensor = tensors[index]
      if (!tensor) throw new Error('the cache has no room')
      return { ...name, tensor: partOf(tensor) }
    })
    return device.bind({}, [...hosts, ...caches])
  }
  return {
    async reserve(tokens) {
      if (tokens <= capacity) return
      const next = Math.ceil(tokens / CAPACITY_STEP) * CAPACITY_STEP
      const larger = names.map(() => allocate(next))
      if (capacity > 0) await copyInto(tensors, larger, { ...options, extra: next - capacity })
      all?.release()
      all = null
      for (const tensor of tensors) tensor.release()
      tensors = larger
      capacity = next
    },
    bindRow(place, results) {
      const parts: DeviceTensor[] = []
      const binding = bind(results, (tensor) => {
        const part = tensor.part(place, 1)
        parts.push(part)
        return part
      })
      return {
        run: (feeds, outputs, hooks) => binding.run(feeds, outputs, hooks),
        release() {
          binding.release()
          for (const part of parts) part.release()
        },
      }
    },
    bindAll: (results) => (all ??= bind(results, (tensor) => tensor)),
  }
}

/** Copies by a graph, which does it where the tensors are. */
async function copyInto(
  from: readonly DeviceTensor[],
  to: readonly DeviceTensor[],
  { dtype, extra, ...options }: SessionOptions & { dtype: DeviceDtype; extra: number },
): Promise<void> {
  const session = await openSession(buildGrowth(dtype), options)
  try {
    if (!session.device) throw new Error('the backend keeps no tensors')
    for (const [index, tensor] of from.entries()) {
      const larger = to[index]
      if (!larger) throw new Error('a tensor has no successor')
      const state = [
        { input: 'tensor', tensor },
        { output: 'larger', tensor: larger },
      ]
      const feeds = { extra: { data: BigInt64Array.of(BigInt(extra)), shape: [1] } }
      await session.device.bind({}, state).run(feeds, [])
    }
  } finally {
    await session.close()
  }
}

/** [rows, heads, tokens, size] with `extra` zeros behind the tokens. */
function buildGrowth(dtype: DeviceDtype): Uint8Array {
  const g = createGraph({ name: 'growth', compute: dtype })
  const tensor = g.input('tensor', dtype, ['rows', 'heads', 'tokens', 'size'])
  const extra = g.input('extra', 'int64', [1])
  const shape = g.op('Shape', [tensor])
  const part = (start: number, end: number) =>
    g.op('Slice', [shape, g.constant([start], 'int64', [1]), g.constant([end], 'int64', [1])])
  const zeros = g.op('Expand', [
    g.scalar(0, dtype),
    g.op('Concat', [part(0, 2), extra, part(3, 4)], { axis: 0 }),
  ])
  const larger = g.op('Concat', [tensor, zeros], { axis: 2 })
  g.output(larger, 'larger', dtype, ['rows', 'heads', 'larger', 'size'])
  return g.toBytes()
}
