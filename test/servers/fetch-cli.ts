import { parseArgs } from 'node:util'
import { ELASTICMQ, fetchElasticMq } from './elasticmq.ts'
import { cacheDir, isFetched } from './foreign-server.ts'
import { fetchMoto, MOTO } from './moto.ts'

const HELP = `npm run servers:fetch [-- --help]

Fetches the servers of others that queue and store are tested against, each unless it is there already: ElasticMQ (needs
java 11 or later and mvn) and moto (needs python3 with venv). They go to ${cacheDir()},
or to the folder that TEST_SERVERS_DIR names. npm run test:servers runs the suites; TEST_ELASTICMQ_URL and TEST_MOTO_URL
name servers that run already.`

if (parseArgs({ options: { help: { type: 'boolean', default: false } } }).values.help) {
  console.log(HELP)
  process.exit(0)
}
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
