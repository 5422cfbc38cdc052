import { GetObjectCommand, S3Client } from '@aws-sdk/client-s3'
import { Miniflare, convertV4MiniflareOptions } from 'miniflare'

export interface TestBucket {
  name: string
  endpoint: string
  region: string
  credentials: { accessKeyId: string; secretAccessKey: string }
  /** What a gateway or worker needs in its environment to use this bucket. */
  env: Record<string, string>
  /** For looking in, and for putting in what no worker has made. */
  client: S3Client
  read(key: string): Promise<Uint8Array | undefined>
  close(): Promise<void>
}

/** A bucket on a free loopback port whose server checks every signature and its end. */
export async function startBucket(): Promise<TestBucket> {
  const credentials = { accessKeyId: 'access', secretAccessKey: 'secret' }
  const name = 'pictures'
  const server = new Miniflare(
    convertV4MiniflareOptions({
      modules: true,
      script: 'export default { fetch: () => new Response(null, { status: 404 }) }',
      compatibilityDate: '2026-08-20',
      cf: false,
      host: '127.0.0.1',
      port: 0,
      r2Buckets: { PICTURES: { id: name, s3Credentials: credentials } },
    }),
  )
  const endpoint = new URL('/cdn-cgi/local/r2/s3', await server.ready).href
  const region = 'auto'
  const client = new S3Client({ region, endpoint, forcePathStyle: true, credentials })
  return {
    name,
    endpoint,
    region,
    credentials,
    env: {
      S3_BUCKET: name,
      S3_ENDPOINT: endpoint,
      AWS_REGION: region,
      AWS_ACCESS_KEY_ID: credentials.accessKeyId,
      AWS_SECRET_ACCESS_KEY: credentials.secretAccessKey,
    },
    client,
    async read(key) {
      const { Body } = await client.send(new GetObjectCommand({ Bucket: name, Key: key }))
      return Body?.transformToByteArray()
    },
    async close() {
      client.destroy()
      await server.dispose()
    },
  }
}
