/**
 * Latents as rows of patches, each flattened channel first; the layout that the denoiser reads and writes.
 *
 * @param latents float32 [channels, rows, columns], rows and columns multiples of `patch`
 */
export function toPatches(latents: Float32Array, layout: PatchLayout): Float32Array {
  const patches = new Float32Array(latents.length)
  forEachElement(layout, (latent, patch) => {
    patches[patch] = latents[latent] ?? 0
  })
  return patches
}

/** The inverse of `toPatches`. */
export function fromPatches(patches: Float32Array, layout: PatchLayout): Float32Array {
  const latents = new Float32Array(patches.length)
  forEachElement(layout, (latent, patch) => {
    latents[latent] = patches[patch] ?? 0
  })
  return latents
}

export interface PatchLayout {
  channels: number
  rows: number
  columns: number
  patch: number
}

function forEachElement(
  { channels, rows, columns, patch }: PatchLayout,
  visit: (latent: number, patch: number) => void,
): void {
  const across = columns / patch
  for (let channel = 0; channel < channels; channel += 1) {
    for (let y = 0; y < rows; y += 1) {
      for (let x = 0; x < columns; x += 1) {
        const token = Math.floor(y / patch) * across + Math.floor(x / patch)
        const inside = (channel * patch + (y % patch)) * patch + (x % patch)
        visit((channel * rows + y) * columns + x, token * channels * patch * patch + inside)
      }
    }
  }
}
