import { fileURLToPath } from 'node:url'
import { beforeAll, expect, test } from 'vitest'
import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import {
  compareAutoregressive,
  compareTokenizer,
} from '../../../gpu-worker/parity/autoregressive.ts'
import { readCases } from '../../../gpu-worker/parity/cases.ts'
import type { ParityCase, ParitySubject } from '../../../gpu-worker/parity/cases.ts'
import {
  compareDiffusion,
  compareGlyph,
  compareSchedule,
} from '../../../gpu-worker/parity/diffusion.ts'
import { compareEdit } from '../../../gpu-worker/parity/edit.ts'
import type { ParityRow } from '../../../gpu-worker/parity/report.ts'

/** The bundled, trained weights beside what the reference implementation computes with them in float32. */

const BUNDLED = fileURLToPath(new URL('../../../gpu-worker/checkpoint', import.meta.url))
const REFERENCE = fileURLToPath(new URL('../../fixtures/trained', import.meta.url))
/** Of logits up to some 30 and of latents of spread 1: about the sixth digit. */
const TOLERANCE = 2e-4

type Compare = (subject: ParitySubject, one: ParityCase) => Promise<ParityRow[]>
const COMPARISONS: Record<string, Compare> = {
  autoregressive: compareAutoregressive,
  glyph: compareGlyph,
  schedule: compareSchedule,
  diffusion: compareDiffusion,
  edit: compareEdit,
  tokenizer: compareTokenizer,
}
const cases = await readCases(REFERENCE)

let subject: ParitySubject
beforeAll(async () => {
  const options = { compute: 'float32', threads: 1 } as const
  subject = { checkpoint: await openCheckpoint(BUNDLED), dir: REFERENCE, options }
})

test('every stage has a case of the reference', () => {
  expect(new Set(cases.map(({ kind }) => kind))).toEqual(new Set(Object.keys(COMPARISONS)))
})

test.each(cases)(
  '$name: trained weights give the integers of the reference exactly and its floats within 0.0002',
  { timeout: 60_000 },
  async (one) => {
    const rows = (await COMPARISONS[one.kind]?.(subject, one)) ?? []
    expect(rows).not.toEqual([])
    expect(rows.filter((row) => row.mismatches > 0 || row.maxDifference > TOLERANCE)).toEqual([])
  },
)
