import { execFile } from 'node:child_process'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { cacheDir, startForeign } from './foreign-server.ts'
import type { ForeignKind } from './foreign-server.ts'

const OWN = join(import.meta.dirname, 'elasticmq')
/** The version is that of the POM. */
const HOME = join(cacheDir(), 'elasticmq-1.7.1')

/** ElasticMQ: a queue server in Java that speaks the SQS protocol, independent of AWS and of this project. */
export const ELASTICMQ: ForeignKind = {
  name: 'ElasticMQ',
  marker: join(HOME, 'fetched'),
  urlVariable: 'TEST_ELASTICMQ_URL',
  start: () =>
    startForeign({
      command: 'java',
      args: [
        '-Xmx256m',
        `-Dconfig.file=${join(OWN, 'server.conf')}`,
        '-cp',
        `${join(HOME, 'lib')}/*`,
        'org.elasticmq.server.Main',
      ],
      listening: /Started SQS rest server, bind address 127\.0\.0\.1:(\d+)/,
    }),
}

/** Puts its jars into the cache. @throws when Maven or its repository is not there */
export async function fetchElasticMq(): Promise<void> {
  await rm(HOME, { recursive: true, force: true })
  await mkdir(HOME, { recursive: true })
  await promisify(execFile)('mvn', [
    '-q',
    '-B',
    '-f',
    join(OWN, 'pom.xml'),
    'dependency:copy-dependencies',
    '-DincludeScope=runtime',
    `-DoutputDirectory=${join(HOME, 'lib')}`,
  ])
  await writeFile(ELASTICMQ.marker, '')
}
