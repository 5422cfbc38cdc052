import type { Suite } from './protocol.ts'

/** Published figures to read one's own beside; null: not published. */
export interface ReferenceRow {
  readonly model: string
  /** CVTG-2K by number of regions, 2 to 5; LongText-Bench in English and Chinese. */
  readonly parts: readonly (number | null)[]
  readonly average: number
  readonly ned: number | null
}

interface Reference {
  readonly source: string
  readonly parts: readonly string[]
  readonly rows: readonly ReferenceRow[]
}

const row = (
  model: string,
  parts: readonly (number | null)[],
  average: number,
  ned: number | null,
): ReferenceRow => ({ model, parts, average, ned })
const UNKNOWN = [null, null, null, null] as const

const CVTG: Reference = {
  source: 'as published in the papers of the models, read with another OCR',
  parts: ['2', '3', '4', '5'],
  rows: [
    row('HiDream-O1-Image-Pro', UNKNOWN, 0.9222, 0.9628),
    row('Ovis-Image 7B', [0.9248, 0.9239, 0.918, 0.9166], 0.92, 0.9695),
    row('Emu3.5', UNKNOWN, 0.9123, 0.9656),
    row('GLM-Image', UNKNOWN, 0.9116, 0.9557),
    row('Seedream 4.5', UNKNOWN, 0.899, 0.9483),
    row('FLUX.2 dev', UNKNOWN, 0.8926, 0.9475),
    row('Z-Image', [0.9006, 0.8722, 0.8652, 0.8512], 0.8671, 0.9367),
    row('LongCat-Image', [0.9129, 0.8737, 0.8557, 0.831], 0.8658, 0.9361),
    row('Z-Image-Turbo', [0.8872, 0.8662, 0.8628, 0.8347], 0.8585, 0.9281),
    row('GPT Image 1 [High]', [0.8779, 0.8659, 0.8731, 0.8218], 0.8569, 0.9478),
    row('Qwen-Image', [0.837, 0.8364, 0.8313, 0.8158], 0.8288, 0.9116),
    row('Nano Banana 2.0', UNKNOWN, 0.7788, 0.8754),
    row('HunyuanImage 3.0', [0.83, 0.7635, 0.7384, 0.7279], 0.765, 0.8765),
    row('SD3.5 Large', [0.7293, 0.6825, 0.6574, 0.594], 0.6548, 0.847),
    row('Seedream 3.0', [0.6282, 0.5962, 0.6043, 0.561], 0.5924, 0.8537),
    row('FLUX.1 dev', [0.6089, 0.5531, 0.4661, 0.4316], 0.4965, 0.6879),
  ],
}

const LONG_TEXT: Reference = {
  source: 'as published by the vendor of GLM-Image, read with Qwen2.5-VL-7B',
  parts: ['en', 'zh'],
  rows: [
    row('Seedream 4.5', [0.989, 0.987], 0.988, null),
    row('GLM-Image', [0.952, 0.979], 0.966, null),
    row('Nano Banana 2.0', [0.981, 0.949], 0.965, null),
    row('Qwen-Image-2512', [0.956, 0.965], 0.961, null),
    row('Qwen-Image', [0.943, 0.946], 0.945, null),
    row('Z-Image', [0.935, 0.936], 0.936, null),
    row('Seedream 4.0', [0.921, 0.926], 0.924, null),
    row('Z-Image-Turbo', [0.917, 0.926], 0.922, null),
    row('GPT Image 1 [High]', [0.956, 0.619], 0.788, null),
  ],
}

/** Of our own set nobody else has published figures. */
export const REFERENCES: Readonly<Record<Suite, Reference | null>> = {
  ours: null,
  cvtg2k: CVTG,
  longtext: LONG_TEXT,
}
