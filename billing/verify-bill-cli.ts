import { createReadStream } from 'node:fs'
import { readFile, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { compactVerify, createLocalJWKSet } from 'jose'
import type { JSONWebKeySet } from 'jose'
import type { Receipt } from './receipt.ts'
import { verifyBill } from './verify-bill.ts'
import type { StatedBill } from './verify-bill.ts'

const USAGE = `Usage: npm run verify-bill -- --receipts DIR --statement FILE --jwks FILE

Recomputes a bill from signed receipts, offline: every receipt's signature, then the sums of the statement as a whole
and by key, SKU and day. Ends with 1 when anything differs.

  --receipts   a folder of files, or one file: a receipt (compact JWS) per line, or pages of GET /v1/receipts
  --statement  the JSON of GET /v1/statements/{month}
  --jwks       the key set of GET /.well-known/jwks.json, kept from a time when it was trusted`

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      receipts: { type: 'string' },
      statement: { type: 'string' },
      jwks: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    console.log(USAGE)
    return 0
  }
  for (const name of ['receipts', 'statement', 'jwks'] as const) {
    if (values[name] === undefined) throw new Error(`--${name} is missing\n\n${USAGE}`)
  }
  const bill = await readJson<StatedBill>('--statement', values.statement ?? '')
  if (!bill.usage || !bill.period_start) throw new Error('--statement: is no statement in JSON')
  const keys = createLocalJWKSet(await readJson<JSONWebKeySet>('--jwks', values.jwks ?? ''))
  const receipts: Receipt[] = []
  const forged: string[] = []
  for await (const { place, jws } of readReceipts(values.receipts ?? '')) {
    const receipt = await compactVerify(jws, keys).then(
      ({ payload }) => JSON.parse(new TextDecoder().decode(payload)) as Receipt,
      () => null,
    )
    if (receipt === null) forged.push(`${place}: not signed by the keys of --jwks`)
    else receipts.push(receipt)
  }
  const { counted, ignored, differences } = verifyBill(receipts, bill)
  const all = [...forged, ...differences]
  console.log(`${counted} receipts count for the statement, ${ignored} are of something else.`)
  for (const difference of all) console.log(`- ${difference}`)
  console.log(all.length === 0 ? 'The bill is right.' : `${all.length} differences.`)
  return all.length === 0 ? 0 : 1
}

async function readJson<T>(option: string, file: string): Promise<T> {
  const text = await readFile(file, 'utf8').catch((cause: NodeJS.ErrnoException) => {
    throw new Error(`${option}: ${file} cannot be read (${cause.code ?? cause.message})`)
  })
  try {
    return JSON.parse(text) as T
  } catch {
    throw new Error(`${option}: ${file} is not JSON`)
  }
}

/** Receipts of a file or of all files of a folder, with the place of each. */
async function* readReceipts(path: string): AsyncGenerator<{ place: string; jws: string }> {
  const found = await stat(path).catch(() => null)
  if (!found) throw new Error(`--receipts: ${path} is not there`)
  const files = found.isDirectory()
    ? (await readdir(path)).toSorted().map((name) => join(path, name))
    : [path]
  for (const file of files) {
    let number = 0
    for await (const line of createInterface({ input: createReadStream(file) })) {
      number += 1
      // A page of the API holds its receipts as texts in JSON.
      for (const [jws] of line.matchAll(/[\w-]+\.[\w-]+\.[\w-]+/g)) {
        if (jws.startsWith('eyJ')) yield { place: `${file}:${number}`, jws }
      }
    }
  }
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(error instanceof Error ? error.message : String(error))
  process.exitCode = 2
}
