/**
 * Binary heaps on typed arrays: a day of a million jobs is a few million events, and an object for each would cost
 * more than all the rest.
 */

export interface EventHeap {
  readonly size: () => number
  /** Infinity when empty. */
  readonly nextAt: () => number
  /** @param stamp of what the event is about when it was made; it is of no use any more when that has another */
  readonly push: (at: number, kind: number, about: number, stamp: number) => void
  /** Into `kind`, `about` and `stamp` of `popped`; events of one instant in the order of their making. */
  readonly pop: () => boolean
  readonly popped: { at: number; kind: number; about: number; stamp: number }
}

export function createEventHeap(): EventHeap {
  let room = 1_024
  let size = 0
  let made = 0
  let at = new Float64Array(room)
  let order = new Float64Array(room)
  // Kind, subject and stamp of each.
  let what = new Int32Array(room * 3)
  const popped = { at: 0, kind: 0, about: 0, stamp: 0 }
  const grow = () => {
    room *= 2
    at = copyInto(new Float64Array(room), at)
    order = copyInto(new Float64Array(room), order)
    what = copyInto(new Int32Array(room * 3), what)
  }
  const isBefore = (a: number, b: number) => {
    const difference = read(at, a) - read(at, b)
    return difference < 0 || (difference === 0 && read(order, a) < read(order, b))
  }
  const swap = (a: number, b: number) => {
    swapIn(at, a, b)
    swapIn(order, a, b)
    for (let part = 0; part < 3; part++) swapIn(what, a * 3 + part, b * 3 + part)
  }
  return {
    popped,
    size: () => size,
    nextAt: () => (size === 0 ? Infinity : read(at, 0)),
    push(when, kind, about, stamp) {
      if (size === room) grow()
      at[size] = when
      order[size] = made++
      what.set([kind, about, stamp], size * 3)
      siftUp(size++, isBefore, swap)
    },
    pop() {
      if (size === 0) return false
      popped.at = read(at, 0)
      popped.kind = read(what, 0)
      popped.about = read(what, 1)
      popped.stamp = read(what, 2)
      swap(0, --size)
      siftDown(size, isBefore, swap)
      return true
    },
  }
}

export interface NumberHeap {
  readonly push: (value: number) => void
  /** The least; -1 when empty. */
  readonly peek: () => number
  readonly pop: () => number
}

/** Of whole numbers from 0. */
export function createNumberHeap(): NumberHeap {
  let values = new Int32Array(1_024)
  let size = 0
  const isBefore = (a: number, b: number) => read(values, a) < read(values, b)
  const swap = (a: number, b: number) => swapIn(values, a, b)
  return {
    push(value) {
      if (size === values.length) values = copyInto(new Int32Array(size * 2), values)
      values[size] = value
      siftUp(size++, isBefore, swap)
    },
    peek: () => (size === 0 ? -1 : read(values, 0)),
    pop() {
      if (size === 0) return -1
      const least = read(values, 0)
      swap(0, --size)
      siftDown(size, isBefore, swap)
      return least
    },
  }
}

type Numbers = Float64Array | Float32Array | Int32Array | Uint8Array

/** An element that is known to be there. */
export function read(numbers: Numbers, index: number): number {
  return numbers[index] as number
}

function swapIn(numbers: Numbers, a: number, b: number): void {
  const kept = read(numbers, a)
  numbers[a] = read(numbers, b)
  numbers[b] = kept
}

function copyInto<T extends Float64Array | Int32Array>(target: T, source: T): T {
  target.set(source)
  return target
}

type Compare = (a: number, b: number) => boolean
type Swap = (a: number, b: number) => void

function siftUp(from: number, isBefore: Compare, swap: Swap): void {
  for (let index = from; index > 0;) {
    const parent = (index - 1) >> 1
    if (!isBefore(index, parent)) return
    swap(index, parent)
    index = parent
  }
}

function siftDown(size: number, isBefore: Compare, swap: Swap): void {
  for (let index = 0; ;) {
    const left = index * 2 + 1
    if (left >= size) return
    const child = left + 1 < size && isBefore(left + 1, left) ? left + 1 : left
    if (!isBefore(child, index)) return
    swap(index, child)
    index = child
  }
}
