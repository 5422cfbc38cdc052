import sharp from 'sharp'

/** A file whose pixels follow from its number: stripes and a slope, so that no two are alike. */
export async function drawPicture(
  number: number,
  { width, height }: { width: number; height: number },
  format: 'png' | 'jpeg' | 'webp' = 'png',
): Promise<Uint8Array> {
  const data = new Uint8Array(width * height * 3).map((_, index) => {
    const pixel = Math.floor(index / 3)
    const [x, y] = [pixel % width, Math.floor(pixel / width)]
    return [(x * 255) / width, (y * 255) / height, ((x + number * y) * 37) % 256][index % 3]!
  })
  return sharp(data, { raw: { width, height, channels: 3 } })
    .toFormat(format)
    .toBuffer()
}
