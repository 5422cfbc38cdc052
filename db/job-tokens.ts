import type { Db } from './client.ts'

/**
 * Keeps the visual tokens of one picture for later attempts; those of an earlier one give way. Safe to repeat.
 *
 * @returns false, and nothing written, when the job is no longer this attempt's
 */
export async function keepTokens(
  db: Db,
  input: { jobId: string; attempt: number; idx: number; weightsHash: string; tokens: Int32Array },
): Promise<boolean> {
  const { jobId, attempt, idx, weightsHash, tokens } = input
  const words = new DataView(new ArrayBuffer(4 * tokens.length))
  for (const [index, token] of tokens.entries()) words.setInt32(4 * index, token, true)
  // The lock on the job's row orders this and the settlement, which leaves no tokens behind.
  const kept = await db.sql`
    with mine as (
      select id from job where id = ${jobId} and attempt = ${attempt} and state = 'running' for update
    )
    insert into job_tokens (job_id, idx, weights_hash, tokens)
    select id, ${idx}::int, ${weightsHash}, ${new Uint8Array(words.buffer)}::bytea from mine
    on conflict (job_id, idx) do update set weights_hash = excluded.weights_hash, tokens = excluded.tokens`
  return kept.count === 1
}

/**
 * The tokens that earlier attempts kept.
 *
 * @param input.weightsHash of the model that is to go on with them; those of another are left out
 * @returns by index of the picture
 */
export async function readTokens(
  db: Db,
  input: { jobId: string; weightsHash: string },
): Promise<ReadonlyMap<number, Int32Array>> {
  const rows = await db.sql<{ idx: number; tokens: Uint8Array }[]>`
    select idx, tokens from job_tokens
     where job_id = ${input.jobId} and weights_hash = ${input.weightsHash}`
  return new Map(rows.map(({ idx, tokens }) => [idx, toWords(tokens)]))
}

function toWords(bytes: Uint8Array): Int32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  return Int32Array.from({ length: bytes.length / 4 }, (_, index) => view.getInt32(4 * index, true))
}
