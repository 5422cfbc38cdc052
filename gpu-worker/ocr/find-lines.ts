import { grow, smallestBox } from './geometry.ts'
import type { Point, TurnedBox } from './geometry.ts'

/** From the configuration that the detector is published with. */
const PIXEL_THRESHOLD = 0.3
const BOX_THRESHOLD = 0.5
const GROWTH = 1.6
const MIN_SIDE = 3
/** A poster has some dozens; noise must not take the time of a thousand. */
const MAX_LINES = 200

/** A map of how likely each pixel belongs to text, row-major. */
export interface TextMap {
  readonly data: Float32Array
  readonly width: number
  readonly height: number
}

/**
 * Lines of text on a detector's map, in reading order: from top to bottom, and of those side by side from left to right.
 *
 * @source Liao et al. 2020, Real-time Scene Text Detection with Differentiable Binarization, section 3.4: what is above
 *   a threshold falls into connected pieces; the map shows lines shrunk, so each box is grown by area x 1.6 / perimeter
 */
export function findLines(map: TextMap): TurnedBox[] {
  const boxes: TurnedBox[] = []
  for (const piece of findPieces(map)) {
    const box = smallestBox(piece)
    if (Math.min(box.width, box.height) < MIN_SIDE || meanWithin(map, box) < BOX_THRESHOLD) continue
    const distance = (box.width * box.height * GROWTH) / (2 * (box.width + box.height))
    boxes.push(grow(box, distance))
  }
  return toReadingOrder(boxes.toSorted((a, b) => b.width * b.height - a.width * a.height))
}

/** The outer pixels of each connected piece: the first and last of every row hold its hull. */
function findPieces({ data, width, height }: TextMap): Point[][] {
  const isOpen = spread(data, width, height)
  const pieces: Point[][] = []
  const stack: number[] = []
  for (let start = 0; start < isOpen.length; start += 1) {
    if (isOpen[start] !== 1) continue
    const rows = new Map<number, [number, number]>()
    isOpen[start] = 0
    stack.push(start)
    for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
      const [x, y] = [at % width, Math.floor(at / width)]
      const row = rows.get(y)
      if (row === undefined) rows.set(y, [x, x])
      else if (x < row[0]) row[0] = x
      else if (x > row[1]) row[1] = x
      for (let ny = Math.max(0, y - 1); ny <= Math.min(height - 1, y + 1); ny += 1) {
        for (let nx = Math.max(0, x - 1); nx <= Math.min(width - 1, x + 1); nx += 1) {
          const next = ny * width + nx
          if (isOpen[next] !== 1) continue
          isOpen[next] = 0
          stack.push(next)
        }
      }
    }
    pieces.push(
      [...rows].flatMap(([y, [first, last]]): Point[] => [
        [first, y],
        [last, y],
      ]),
    )
  }
  return pieces
}

/** Above the threshold, and one pixel to the right and below of that, as the reference does to join broken letters. */
function spread(data: Float32Array, width: number, height: number): Uint8Array {
  const isText = new Uint8Array(data.length)
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      if ((data[y * width + x] ?? 0) <= PIXEL_THRESHOLD) continue
      for (let ny = y; ny <= Math.min(height - 1, y + 1); ny += 1) {
        for (let nx = x; nx <= Math.min(width - 1, x + 1); nx += 1) isText[ny * width + nx] = 1
      }
    }
  }
  return isText
}

function meanWithin({ data, width, height }: TextMap, box: TurnedBox): number {
  const [cos, sin] = [Math.cos(box.angle), Math.sin(box.angle)]
  const reach = Math.hypot(box.width, box.height) / 2
  let [sum, count] = [0, 0]
  const bottom = Math.min(height - 1, Math.ceil(box.y + reach))
  const right = Math.min(width - 1, Math.ceil(box.x + reach))
  for (let y = Math.max(0, Math.floor(box.y - reach)); y <= bottom; y += 1) {
    for (let x = Math.max(0, Math.floor(box.x - reach)); x <= right; x += 1) {
      const [dx, dy] = [x - box.x, y - box.y]
      if (Math.abs(dx * cos + dy * sin) > box.width / 2) continue
      if (Math.abs(dy * cos - dx * sin) > box.height / 2) continue
      sum += data[y * width + x] ?? 0
      count += 1
    }
  }
  return count === 0 ? 0 : sum / count
}

/** Boxes whose middles differ by less than half the lower one's height stand side by side. */
function toReadingOrder(bySize: readonly TurnedBox[]): TurnedBox[] {
  const rows: TurnedBox[][] = []
  for (const box of bySize.slice(0, MAX_LINES).toSorted((a, b) => a.y - b.y)) {
    const row = rows.at(-1)
    const first = row?.[0]
    if (row && first && Math.abs(box.y - first.y) < Math.min(box.height, first.height) / 2) {
      row.push(box)
    } else {
      rows.push([box])
    }
  }
  return rows.flatMap((row) => row.toSorted((a, b) => a.x - b.x))
}
