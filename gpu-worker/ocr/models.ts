import { readFile } from 'node:fs/promises'
import { decodeImage } from '../pipeline/read-image.ts'
import { takeTensor } from '../pipeline/outputs.ts'
import type { Pixels } from '../pipeline/resample.ts'
import { openSession } from '../pipeline/session.ts'
import type { Feeds, HostTensor, Session } from '../pipeline/session.ts'
import { findLines } from './find-lines.ts'
import type { TurnedBox } from './geometry.ts'
import { sampleBox } from './sample.ts'

/** One line of text as it was read, `confidence` from 0 to 1. */
export interface ReadLine {
  readonly text: string
  readonly confidence: number
}

/** The detector was trained on pictures whose shorter side has at least so many pixels. */
const MIN_DETECT_SIDE = 736
/** Above it the detector takes seconds, and letters that it would miss are smaller than 8 pixels of 2048. */
const MAX_DETECT_SIDE = 1_536
/** The detector halves its picture five times. */
const DETECT_MULTIPLE = 32
/** What the recogniser was trained on: lines 48 pixels high, at least 320 wide. */
const LINE_HEIGHT = 48
const MIN_LINE_WIDTH = 320
const MAX_LINE_WIDTH = 3_200
/** A box so much higher than wide may be a line on its side. */
const UPRIGHT_RATIO = 1.5
/** Below it a line is taken for something else than text. */
const MIN_CONFIDENCE = 0.5

const FOLDER = new URL('./models/', import.meta.url)

export interface TextModels {
  /** Lines in reading order. @throws when the file is no picture */
  read(file: Uint8Array): Promise<ReadLine[]>
  close(): Promise<void>
}

/** Opens both models; everything they need lies in this folder. */
export async function openTextModels(options: { threads?: number } = {}): Promise<TextModels> {
  const [detector, recogniser, characters] = await Promise.all([
    openModel('detect.onnx', options),
    openModel('recognise.onnx', options),
    readFile(new URL('characters.txt', FOLDER), 'utf8'),
  ])
  // Class 0 is "nothing new", the last one the space.
  const alphabet = ['', ...characters.trimEnd().split('\n'), ' ']
  return {
    async read(file) {
      const pixels = await decodeImage(file)
      const lines: ReadLine[] = []
      for (const box of await detect(detector, pixels)) {
        const line = await recognise(recogniser, alphabet, { pixels, box })
        if (line.text !== '' && line.confidence >= MIN_CONFIDENCE) lines.push(line)
      }
      return lines
    },
    async close() {
      await Promise.all([detector.close(), recogniser.close()])
    },
  }
}

async function openModel(name: string, options: { threads?: number }): Promise<Session> {
  return openSession(await readFile(new URL(name, FOLDER)), options)
}

async function runOne(session: Session, data: Float32Array, shape: number[]): Promise<HostTensor> {
  const feeds: Feeds = { x: { data, shape } }
  return takeTensor(await session.run(feeds), 'fetch_name_0')
}

async function detect(session: Session, pixels: Pixels): Promise<TurnedBox[]> {
  const { width, height } = detectSize(pixels)
  // Coordinates count pixel centres from 0.
  const whole = {
    x: (pixels.width - 1) / 2,
    y: (pixels.height - 1) / 2,
    width: pixels.width,
    height: pixels.height,
    angle: 0,
  }
  const input = sampleBox(pixels, whole, { width, height, paddedWidth: width })
  const { data, shape } = await runOne(session, input, [1, 3, height, width])
  const [rows = 0, columns = 0] = shape.slice(2)
  if (!(data instanceof Float32Array)) throw new Error('the map of text is not float32')
  const [scaleX, scaleY] = [pixels.width / columns, pixels.height / rows]
  return findLines({ data, width: columns, height: rows }).map((box) => ({
    // Both scales are equal up to the rounding of the size.
    angle: box.angle,
    x: (box.x + 0.5) * scaleX - 0.5,
    y: (box.y + 0.5) * scaleY - 0.5,
    width: box.width * scaleX,
    height: box.height * scaleY,
  }))
}

function detectSize({ width, height }: Pixels): { width: number; height: number } {
  const grown = Math.max(1, MIN_DETECT_SIDE / Math.min(width, height))
  const scale = Math.min(grown, MAX_DETECT_SIDE / Math.max(width, height))
  const fit = (side: number) =>
    Math.max(1, Math.round((side * scale) / DETECT_MULTIPLE)) * DETECT_MULTIPLE
  return { width: fit(width), height: fit(height) }
}

async function recognise(
  session: Session,
  alphabet: readonly string[],
  { pixels, box }: { pixels: Pixels; box: TurnedBox },
): Promise<ReadLine> {
  let best = await readLine(session, alphabet, { pixels, box })
  if (box.height < box.width * UPRIGHT_RATIO) return best
  // A narrow letter, or a line that runs upwards or downwards: the reading that is surest of itself.
  for (const turn of [-Math.PI / 2, Math.PI / 2]) {
    const turned = { ...box, width: box.height, height: box.width, angle: box.angle + turn }
    const reading = await readLine(session, alphabet, { pixels, box: turned })
    if (reading.confidence > best.confidence) best = reading
  }
  return best
}

async function readLine(
  session: Session,
  alphabet: readonly string[],
  { pixels, box }: { pixels: Pixels; box: TurnedBox },
): Promise<ReadLine> {
  const ideal = Math.ceil((LINE_HEIGHT * box.width) / box.height)
  const width = Math.min(MAX_LINE_WIDTH, Math.max(1, ideal))
  const paddedWidth = Math.max(MIN_LINE_WIDTH, width)
  const input = sampleBox(pixels, box, { width, height: LINE_HEIGHT, paddedWidth })
  const { data, shape } = await runOne(session, input, [1, 3, LINE_HEIGHT, paddedWidth])
  if (!(data instanceof Float32Array)) throw new Error('the reading is not float32')
  return decodeLine(data, shape[2] ?? 0, alphabet)
}

/**
 * Greedy decoding of connectionist temporal classification: the likeliest class of each column, repeats joined, blanks
 * left out. The confidence is the mean likelihood of what is left.
 *
 * @param scores float32 [columns, classes]
 */
export function decodeLine(
  scores: Float32Array,
  classes: number,
  alphabet: readonly string[],
): ReadLine {
  let text = ''
  let [sum, count, before] = [0, 0, 0]
  for (let start = 0; start < scores.length; start += classes) {
    let best = 0
    for (let index = 1; index < classes; index += 1) {
      if ((scores[start + index] ?? 0) > (scores[start + best] ?? 0)) best = index
    }
    if (best !== 0 && best !== before) {
      text += alphabet[best] ?? ''
      sum += scores[start + best] ?? 0
      count += 1
    }
    before = best
  }
  return { text: text.trim(), confidence: count === 0 ? 0 : sum / count }
}
