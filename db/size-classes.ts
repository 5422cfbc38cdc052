export interface SizeClass {
  readonly name: string
  /** The most pixels of one picture of this class. */
  readonly maxPixels: number
  /** What one picture holds a GPU. */
  readonly meanSeconds: number
  /** Standard deviation over mean. */
  readonly spread: number
}

/**
 * Classes by pixels. The reference implementation takes 64 s for 1024x1024 and 253 s for 2048x2048 on one H100; the
 * smaller one is by tokens, which is by pixels, with the part that does not shrink. A size and model always take the
 * same steps, so that what varies inside a class is mostly its sizes.
 */
export const SIZE_CLASSES: readonly SizeClass[] = [
  { name: 'small', maxPixels: 640 * 640, meanSeconds: 25, spread: 0.2 },
  { name: 'medium', maxPixels: 1280 * 1280, meanSeconds: 64, spread: 0.2 },
  { name: 'large', maxPixels: Infinity, meanSeconds: 253, spread: 0.15 },
]

/** Bounds for `readBacklog`, which counts from 0 and puts what is at a bound below it. */
export const CLASS_BOUNDS: readonly number[] = SIZE_CLASSES.slice(0, -1).map(
  ({ maxPixels }) => maxPixels,
)
