import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createNodeWebhookSender } from '../../edge/node/webhook-sender.ts'
import type { Resolve } from '../../edge/node/webhook-sender.ts'
import { createWorkersWebhookSender } from '../../edge/workers-webhook-sender.ts'
import { startReceiver } from '../support/receiver.ts'
import type { WebhookReceiver } from '../support/receiver.ts'

let receiver: WebhookReceiver
const closers: (() => Promise<void>)[] = []

beforeEach(async () => {
  receiver = await startReceiver()
})
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
  await receiver.close()
})

function nodeSender(options: { allowLoopback: boolean; resolve?: Resolve }) {
  const sender = createNodeWebhookSender(options)
  closers.push(sender.close)
  return sender.send
}

function message(url: string, timeoutMs = 5_000) {
  return {
    url: new URL(url),
    headers: { 'content-type': 'application/json', 'webhook-id': 'evt_1' },
    body: '{"a":"é"}',
    timeoutMs,
  }
}

const senders = [
  ['Node', () => nodeSender({ allowLoopback: true })],
  ['Workers', () => createWorkersWebhookSender()],
] as const

describe.each(senders)('sender on %s', (_, create) => {
  test('sends the exact bytes by POST and reports the status', async () => {
    receiver.answer = (_request, response) => response.writeHead(202).end()
    const result = await create()(message(receiver.url))
    expect(result).toEqual({ ok: true, statusCode: 202, retryAfterSeconds: null })
    expect(receiver.received).toMatchObject([
      { method: 'POST', path: '/hook', body: '{"a":"é"}', headers: { 'webhook-id': 'evt_1' } },
    ])
  })

  test('does not follow a redirect', async () => {
    receiver.answer = (_request, response) =>
      response.writeHead(307, { location: `${receiver.url}-elsewhere` }).end()
    expect(await create()(message(receiver.url))).toMatchObject({ ok: true, statusCode: 307 })
    expect(receiver.received).toHaveLength(1)
  })

  test('reports Retry-After', async () => {
    receiver.answer = (_request, response) => response.writeHead(429, { 'retry-after': '7' }).end()
    expect(await create()(message(receiver.url))).toEqual({
      ok: true,
      statusCode: 429,
      retryAfterSeconds: 7,
    })
  })

  test('an endless answer does not hold the sender', async () => {
    let written = 0
    receiver.answer = (_request, response) => {
      response.writeHead(200)
      const pump = () => {
        while (!response.destroyed && response.write(Buffer.alloc(65_536))) written += 65_536
        response.once('drain', pump)
      }
      pump()
    }
    expect(await create()(message(receiver.url))).toMatchObject({ ok: true, statusCode: 200 })
    expect(written).toBeLessThan(50_000_000)
  })

  test('a receiver that never answers is a timeout', async () => {
    receiver.answer = () => {}
    expect(await create()(message(receiver.url, 50))).toEqual({ ok: false, error: 'timeout' })
  })

  test('a closed port is a failed connection', async () => {
    await receiver.close()
    expect(await create()(message(receiver.url))).toEqual({
      ok: false,
      error: 'connection_failed',
    })
    receiver = await startReceiver()
  })
})

describe('sender on Node', () => {
  const refused = { ok: false, error: 'address_not_public' }

  test.each([
    ['one private address', [{ address: '10.0.0.1', family: 4 }]],
    ['loopback', [{ address: '127.0.0.1', family: 4 }]],
    ['metadata', [{ address: '169.254.169.254', family: 4 }]],
    ['mapped IPv6', [{ address: '::ffff:127.0.0.1', family: 6 }]],
    ['unique local IPv6', [{ address: 'fd00:ec2::254', family: 6 }]],
    [
      'a private address behind a public one',
      [
        { address: '8.8.8.8', family: 4 },
        { address: '127.0.0.1', family: 4 },
      ],
    ],
  ])('a name that resolves to %s is refused before any connection', async (_, addresses) => {
    const send = nodeSender({ allowLoopback: false, resolve: async () => addresses })
    expect(await send(message(`http://receiver.example:${receiver.port}/`))).toEqual(refused)
    expect(await send(message(`https://receiver.example:${receiver.port}/`))).toEqual(refused)
    expect(receiver.received).toHaveLength(0)
  })

  test.each(['127.0.0.1', '[::1]', '127.1', '2130706433', '0x7f000001', '[::ffff:7f00:1]'])(
    'the literal %s is refused before any connection',
    async (host) => {
      const send = nodeSender({ allowLoopback: false })
      expect(await send(message(`http://${host}:${receiver.port}/`))).toEqual(refused)
      expect(receiver.received).toHaveLength(0)
    },
  )

  test('the loopback rule does not open private networks', async () => {
    const send = nodeSender({
      allowLoopback: true,
      resolve: async () => [{ address: '192.168.0.1', family: 4 }],
    })
    expect(await send(message('http://receiver.example/'))).toEqual(refused)
    expect(await send(message('http://169.254.169.254/latest/'))).toEqual(refused)
  })

  test('the connection goes to the address that was checked: the name is resolved once', async () => {
    const answers = ['127.0.0.1', '10.0.0.1']
    let asked = 0
    const send = nodeSender({
      allowLoopback: true,
      resolve: async () => [{ address: answers[asked++] ?? '10.0.0.1', family: 4 }],
    })
    const result = await send(message(`http://receiver.example:${receiver.port}/`))
    expect(result).toMatchObject({ ok: true, statusCode: 200 })
    expect(asked).toBe(1)
    expect(receiver.received[0]?.headers.host).toBe(`receiver.example:${receiver.port}`)
  })

  test('a name without address and a resolver that fails are told apart from refusals', async () => {
    const empty = nodeSender({ allowLoopback: true, resolve: async () => [] })
    expect(await empty(message('http://receiver.example/'))).toEqual({
      ok: false,
      error: 'dns_failed',
    })
    const failing = nodeSender({
      allowLoopback: true,
      resolve: () =>
        Promise.reject(Object.assign(new Error('no such host'), { code: 'ENOTFOUND' })),
    })
    expect(await failing(message('http://receiver.example/'))).toEqual({
      ok: false,
      error: 'dns_failed',
    })
  })

  test('a proxy in the environment is not used', async () => {
    process.env.HTTP_PROXY = 'http://127.0.0.1:1'
    process.env.http_proxy = 'http://127.0.0.1:1'
    try {
      const send = nodeSender({ allowLoopback: true })
      expect(await send(message(receiver.url))).toMatchObject({ ok: true })
    } finally {
      delete process.env.HTTP_PROXY
      delete process.env.http_proxy
    }
  })

  test('a receiver that speaks no TLS is a TLS failure', async () => {
    const send = nodeSender({ allowLoopback: true })
    expect(await send(message(`https://127.0.0.1:${receiver.port}/`))).toEqual({
      ok: false,
      error: 'tls_failed',
    })
  })
})
