import { createHash, createHmac } from 'node:crypto'
import { createServer, request as send } from 'node:http'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface Caller {
  accessKeyId: string
  secretAccessKey: string
  sessionToken?: string
}

export interface SignedProxy {
  endpoint: string
  /** Services that were called with a good signature: `sqs`, `s3`. */
  served: Set<string>
  /** Why calls were refused. */
  refused: string[]
  close(): Promise<void>
}

/**
 * A server in front of another that checks nothing: calls are passed on when their signature (AWS Signature
 * Version 4, in the header) is that of the caller for this region, and refused with 403 otherwise.
 */
export async function startSignedProxy(
  upstream: string,
  caller: Caller,
  region: string,
): Promise<SignedProxy> {
  const served = new Set<string>()
  const refused: string[] = []
  const server = createServer((request, response) => {
    void readBody(request).then((body) => {
      const verdict = check(request, body, { caller, region })
      if (verdict.error !== null) {
        refused.push(verdict.error)
        response.writeHead(403, { 'content-type': 'application/json' })
        response.end(JSON.stringify({ __type: 'InvalidClientTokenId', message: verdict.error }))
        return
      }
      served.add(verdict.service)
      const { method, headers } = request
      const onward = send(new URL(request.url ?? '/', upstream), { method, headers }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers)
        answer.pipe(response)
      })
      onward.on('error', () => response.destroy())
      response.on('close', () => onward.destroy())
      onward.end(body)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo
  return {
    endpoint: `http://127.0.0.1:${port}`,
    served,
    refused,
    close: () =>
      new Promise((closed) => {
        server.close(() => closed())
        server.closeAllConnections()
      }),
  }
}

function check(
  request: IncomingMessage,
  body: Buffer,
  expected: { caller: Caller; region: string },
): { error: string | null; service: string } {
  const { caller } = expected
  const header = String(request.headers.authorization)
  const parts = /Credential=([^,]+), SignedHeaders=([^,]+), Signature=(\w+)/.exec(header)
  const [, scope = '', signedHeaders = '', signature] = parts ?? []
  const [id, date = '', region = '', service = ''] = scope.split('/')
  const refuse = (error: string) => ({ error: `${error} (${scope})`, service })
  if (id !== caller.accessKeyId) return refuse('unknown caller')
  if (region !== expected.region) return refuse('another region')
  const valueOf = (name: string) => String(request.headers[name])
  const token = caller.sessionToken
  if (token !== undefined) {
    const isSigned = signedHeaders.split(';').includes('x-amz-security-token')
    if (!isSigned || valueOf('x-amz-security-token') !== token) return refuse('another session')
  } else if ('x-amz-security-token' in request.headers) return refuse('a session of nobody')

  const bodyHash = sha256(body)
  const claimed = request.headers['x-amz-content-sha256'] ?? bodyHash
  if (claimed !== bodyHash && claimed !== 'UNSIGNED-PAYLOAD') return refuse('another body')
  const { pathname, search } = new URL(request.url ?? '/', 'http://any')
  const query = search.slice(1).split('&').filter(Boolean).toSorted()
  const canonical = [
    request.method,
    pathname,
    query.map((pair) => (pair.includes('=') ? pair : `${pair}=`)).join('&'),
    ...signedHeaders.split(';').map((name) => `${name}:${valueOf(name).trim()}`),
    '',
    signedHeaders,
    claimed,
  ].join('\n')
  const rest = [date, region, service, 'aws4_request']
  const text = ['AWS4-HMAC-SHA256', valueOf('x-amz-date'), rest.join('/'), sha256(canonical)]
  const key = rest.reduce<string | Buffer>(
    (secret, part) => createHmac('sha256', secret).update(part).digest(),
    `AWS4${caller.secretAccessKey}`,
  )
  const right = createHmac('sha256', key).update(text.join('\n')).digest('hex')
  return right === signature ? { error: null, service } : refuse('a wrong signature')
}

function sha256(data: string | Buffer): string {
  return createHash('sha256').update(data).digest('hex')
}

async function readBody(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}
