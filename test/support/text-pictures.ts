import { fileURLToPath } from 'node:url'
import sharp from 'sharp'
import type { OverlayOptions } from 'sharp'

/** Fonts of the Open Font License, as npm packages bring them; the bytes of a picture follow from them alone. */
export const FONTS = {
  sans: { family: 'PT Sans', file: 'pt-sans/400Regular/PTSans_400Regular.ttf' },
  'sans-bold': { family: 'PT Sans Bold', file: 'pt-sans/700Bold/PTSans_700Bold.ttf' },
  serif: { family: 'PT Serif', file: 'pt-serif/400Regular/PTSerif_400Regular.ttf' },
  'serif-italic': {
    family: 'PT Serif Italic',
    file: 'pt-serif/400Regular_Italic/PTSerif_400Regular_Italic.ttf',
  },
  condensed: { family: 'Anton', file: 'anton/400Regular/Anton_400Regular.ttf' },
  script: { family: 'Lobster', file: 'lobster/400Regular/Lobster_400Regular.ttf' },
  'chinese-serif': {
    family: 'ZCOOL XiaoWei',
    file: 'zcool-xiaowei/400Regular/ZCOOLXiaoWei_400Regular.ttf',
  },
  'chinese-round': {
    family: 'ZCOOL KuaiLe',
    file: 'zcool-kuaile/400Regular/ZCOOLKuaiLe_400Regular.ttf',
  },
} as const
export type FontName = keyof typeof FONTS

export interface DrawnText {
  text: string
  font: FontName
  /** Of the font, in pixels; what does not fit is made smaller. */
  sizePx: number
  colour?: string
}

const FOLDER = new URL('../../node_modules/@expo-google-fonts/', import.meta.url)
const PARTS = { '&': '&amp;', '<': '&lt;', '>': '&gt;' } as const

/** A picture that shows these texts below each other, each centred, spelled as they are given. */
export async function drawTexts(
  texts: readonly DrawnText[],
  options: { width: number; height: number; background?: string },
): Promise<Uint8Array> {
  const { width, height, background = '#ffffff' } = options
  const layers: OverlayOptions[] = []
  const room = Math.floor(height / Math.max(1, texts.length))
  for (const [index, drawn] of texts.entries()) {
    const { data, info } = await drawText(drawn, {
      width: Math.floor(width * 0.94),
      height: room - 2,
    })
    layers.push({
      input: data,
      left: Math.round((width - info.width) / 2),
      top: room * index + Math.round((room - info.height) / 2),
    })
  }
  const canvas = sharp({ create: { width, height, channels: 3, background } })
  return new Uint8Array(await canvas.composite(layers).png().toBuffer())
}

async function drawText(
  { text, font, sizePx, colour = '#111111' }: DrawnText,
  room: { width: number; height: number },
) {
  const { family, file } = FONTS[font]
  const safe = text.replaceAll(/[&<>]/g, (sign) => PARTS[sign as keyof typeof PARTS])
  const drawn = await sharp({
    text: {
      text: `<span foreground="${colour}">${safe}</span>`,
      // At 72 dots per inch a point is a pixel.
      font: `${family} ${sizePx}`,
      fontfile: fileURLToPath(new URL(file, FOLDER)),
      dpi: 72,
      rgba: true,
      align: 'centre',
    },
  })
    .png()
    .toBuffer({ resolveWithObject: true })
  if (drawn.info.width <= room.width && drawn.info.height <= room.height) return drawn
  return sharp(drawn.data)
    .resize({ ...room, fit: 'inside' })
    .png()
    .toBuffer({ resolveWithObject: true })
}
