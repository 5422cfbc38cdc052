/** Fetches the servers of others that queue and store are tested against, each unless it is there already. */
import { ELASTICMQ, fetchElasticMq } from './elasticmq.ts'
import { isFetched } from './foreign-server.ts'
import { fetchMoto, MOTO } from './moto.ts'

for (const { kind, fetch, needs } of [
  { kind: ELASTICMQ, fetch: fetchElasticMq, needs: 'java (11 or later) and mvn' },
  { kind: MOTO, fetch: fetchMoto, needs: 'python3 with venv' },
]) {
  if (await isFetched(kind)) {
    console.log(`${kind.name} is here`)
    continue
  }
  try {
    await fetch()
    console.log(`${kind.name} is here now`)
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error)
    console.error(
      `${kind.name} could not be fetched; it needs ${needs} and their registry:\n${text}`,
    )
    process.exitCode = 1
  }
}
