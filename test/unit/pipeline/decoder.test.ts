import { describe, expect, test } from 'vitest'
import { openCheckpoint } from '../../../gpu-worker/model/checkpoint.ts'
import {
  compareAutoregressive,
  compareTokenizer,
} from '../../../gpu-worker/parity/autoregressive.ts'
import { readCases } from '../../../gpu-worker/parity/cases.ts'
import { BACKENDS } from '../../../gpu-worker/pipeline/session.ts'
import { openVisualTokenWriter } from '../../../gpu-worker/pipeline/visual-tokens.ts'

const GOLDEN = 'test/fixtures/golden'
const cases = await readCases(GOLDEN)

describe.each(BACKENDS)('the autoregressive stage agrees with the reference on %s', (backend) => {
  const options = { compute: 'float32', threads: 1, backend } as const
  test.for(cases.filter(({ kind }) => kind === 'autoregressive'))(
    '$name: ids, positions, logits of the prompt, of forced and of greedy tokens',
    async (parityCase) => {
      const checkpoint = await openCheckpoint(`${GOLDEN}/checkpoint`)
      const report = await compareAutoregressive({ checkpoint, dir: GOLDEN, options }, parityCase)
      expect(report.filter((row) => row.mismatches > 0)).toEqual([])
      for (const row of report) expect(row, row.stage).toHaveProperty('mismatches', 0)
      expect(Math.max(...report.map((row) => row.maxDifference))).toBeLessThan(1e-4)
    },
  )

  test('the tokenizer gives the reference ids for tricky strings', async () => {
    const checkpoint = await openCheckpoint(`${GOLDEN}/checkpoint`)
    const parityCase = cases.find(({ kind }) => kind === 'tokenizer')!
    const rows = await compareTokenizer({ checkpoint, dir: GOLDEN, options }, parityCase)
    expect(rows.filter((row) => row.mismatches > 0)).toEqual([])
    expect(rows.length).toBeGreaterThan(3)
  })
})

describe.each(BACKENDS)('writing visual tokens on %s', (backend) => {
  const options = { compute: 'float32', threads: 1, backend } as const
  const request = { prompt: "A sign 'OPEN'", width: 96, height: 64, seed: 7 }

  test('the same seed writes the same codes, another seed others, all inside the codebook', async () => {
    const checkpoint = await openCheckpoint(`${GOLDEN}/checkpoint`)
    const writer = await openVisualTokenWriter(checkpoint, options)
    const seen: [number, number][] = []
    const first = await writer.write(request, {
      onChunk: async (written, total) => void seen.push([written, total]),
    })
    const again = await writer.write(request, { onChunk: async () => {} })
    const other = await writer.write({ ...request, seed: 8 }, { onChunk: async () => {} })
    expect(again.tokens).toEqual(first.tokens)
    expect(other.tokens).not.toEqual(first.tokens)
    expect(first.tokens.length).toBe(6)
    expect(first.priorTokenIds.length).toBe(24)
    expect([...first.tokens].every((id) => id >= 0 && id < 128)).toBe(true)
    expect(seen.at(-1)).toEqual([253, 253])
    expect(seen.map(([written]) => written)).toEqual(seen.map(([w]) => w).toSorted((a, b) => a - b))
    await writer.close()
  })

  test('an error thrown between chunks ends the writing there', async () => {
    const checkpoint = await openCheckpoint(`${GOLDEN}/checkpoint`)
    const writer = await openVisualTokenWriter(checkpoint, options)
    let chunks = 0
    const stop = async (written: number) => {
      if (written === 0) return
      chunks += 1
      throw new Error('stop here')
    }
    await expect(writer.write(request, { onChunk: stop })).rejects.toThrow('stop here')
    expect(chunks).toBe(1)
    await writer.close()
  })
})
