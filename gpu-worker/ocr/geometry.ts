/** A turned rectangle in pixels; `angle` in radians, from the x axis downwards, within a quarter turn of level. */
export interface TurnedBox {
  readonly x: number
  readonly y: number
  readonly width: number
  readonly height: number
  readonly angle: number
}

export type Point = readonly [x: number, y: number]

/**
 * The smallest turned rectangle around points, its longer reading direction kept within 45 degrees of level.
 *
 * One side of that rectangle lies on an edge of the convex hull, so every edge is tried.
 *
 * @param points at least one
 */
export function smallestBox(points: readonly Point[]): TurnedBox {
  const hull = convexHull(points)
  let best: TurnedBox | null = null
  for (const [index, from] of hull.entries()) {
    const to = hull[(index + 1) % hull.length] ?? from
    const box = boxAlong(hull, Math.atan2(to[1] - from[1], to[0] - from[0]))
    if (best === null || box.width * box.height < best.width * best.height) best = box
  }
  return best ?? boxAlong(points, 0)
}

/** Grown by as much on every side. */
export function grow(box: TurnedBox, by: number): TurnedBox {
  return { ...box, width: box.width + 2 * by, height: box.height + 2 * by }
}

function boxAlong(points: readonly Point[], direction: number): TurnedBox {
  const quarter = Math.PI / 2
  // The same rectangle has four names; this one is level within 45 degrees.
  const angle = direction - quarter * Math.round(direction / quarter)
  const [cos, sin] = [Math.cos(angle), Math.sin(angle)]
  let [minU, maxU, minV, maxV] = [Infinity, -Infinity, Infinity, -Infinity]
  for (const [x, y] of points) {
    const u = x * cos + y * sin
    const v = y * cos - x * sin
    minU = Math.min(minU, u)
    maxU = Math.max(maxU, u)
    minV = Math.min(minV, v)
    maxV = Math.max(maxV, v)
  }
  const [u, v] = [(minU + maxU) / 2, (minV + maxV) / 2]
  return {
    x: u * cos - v * sin,
    y: u * sin + v * cos,
    width: maxU - minU,
    height: maxV - minV,
    angle,
  }
}

/** Andrew's monotone chain. */
function convexHull(points: readonly Point[]): Point[] {
  const sorted = points.toSorted((a, b) => a[0] - b[0] || a[1] - b[1])
  if (sorted.length < 3) return sorted
  return [...halfHull(sorted), ...halfHull(sorted.toReversed())]
}

function halfHull(sorted: readonly Point[]): Point[] {
  const half: Point[] = []
  for (const point of sorted) {
    for (;;) {
      const [a, b] = [half.at(-2), half.at(-1)]
      if (!a || !b) break
      const turn = (b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0])
      if (turn > 0) break
      half.pop()
    }
    half.push(point)
  }
  return half.slice(0, -1)
}
