import { connect, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'

/** A statement on its way: not yet at the server, or done there and its answer not yet back. */
export interface Moment {
  when: 'before' | 'after'
  /** Part of the statement's text. */
  sql: string
  /** Which execution of it, counted over all connections from the call of `trap`; the first when absent. */
  nth?: number
}

export interface Trap {
  /** Resolves when the moment has come; its connection then stands still. */
  readonly reached: Promise<void>
  /** Lets the connection go on. */
  release(): void
}

export interface Wire {
  /** The same database, reached through the wire. */
  readonly url: string
  trap(moment: Moment): Trap
  /** Cuts every connection, as a network does. */
  cut(): void
  /** From now on the open connections pass nothing on and stay open, as to a host that vanished; new ones work. */
  silence(): void
  /** Cuts every connection and refuses new ones until `up`, as a server that is down. */
  down(): Promise<void>
  /** Safe to repeat. */
  up(): Promise<void>
  close(): Promise<void>
}

/** One connection with its two directions. */
interface Line {
  isSilent: boolean
}

interface Watch {
  moment: Moment
  remaining: number
  onReached: () => void
  released: Promise<void>
}

/**
 * A TCP relay in front of PostgreSQL that can stop a client between two statements of its choice: it reads
 * statement texts off the protocol, so the client under test runs unchanged.
 */
export async function startWire(databaseUrl: string): Promise<Wire> {
  const target = new URL(databaseUrl)
  const watches = new Set<Watch>()
  const sockets = new Set<Socket>()
  const lines = new Set<Line>()
  // An end is passed on by hand, so that a silent line does not answer it.
  const server = createServer({ allowHalfOpen: true }, (client) => {
    const upstream = connect({
      port: Number(target.port),
      host: target.hostname,
      allowHalfOpen: true,
    })
    const line: Line = { isSilent: false }
    lines.add(line)
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', () => {})
    }
    client.on('close', () => upstream.destroy())
    upstream.on('close', () => client.destroy())
    relay(client, upstream, { watches, line })
  })
  const listen = (port: number) =>
    new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  await listen(0)
  const url = new URL(databaseUrl)
  url.port = String((server.address() as AddressInfo).port)
  const cut = () => {
    for (const socket of sockets) socket.destroy()
    sockets.clear()
  }
  return {
    url: url.href,
    trap(moment) {
      let release = () => {}
      let onReached = () => {}
      const reached = new Promise<void>((resolve) => (onReached = resolve))
      const released = new Promise<void>((resolve) => (release = resolve))
      watches.add({ moment, remaining: moment.nth ?? 1, onReached, released })
      return { reached, release }
    },
    cut,
    silence() {
      for (const line of lines) line.isSilent = true
      lines.clear()
    },
    async down() {
      const closed = new Promise((resolve) => server.close(resolve))
      cut()
      await closed
    },
    async up() {
      if (!server.listening) await listen(Number(url.port))
    },
    async close() {
      cut()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** Message types of the frontend that matter here. */
const PARSE = 'P'
const BIND = 'B'
const QUERY = 'Q'
const SYNC = 'S'
/** The backend's word that a statement is done and committed. */
const READY = 'Z'

function relay(
  client: Socket,
  upstream: Socket,
  { watches, line }: { watches: Set<Watch>; line: Line },
): void {
  const statements = new Map<string, string>()
  const pending: { watch: Watch; answer: number }[] = []
  let asked = 0
  let answered = 0
  let isStarted = false

  /** The watch that this execution fulfils, once its count is reached. */
  const noteExecution = (sql: string): Watch | null => {
    for (const watch of watches) {
      if (!sql.includes(watch.moment.sql)) continue
      watch.remaining -= 1
      if (watch.remaining > 0) continue
      watches.delete(watch)
      if (watch.moment.when === 'before') return watch
      pending.push({ watch, answer: asked + 1 })
    }
    return null
  }

  const fromClient = frames((frame) => {
    if (!isStarted) {
      isStarted = true
      return null
    }
    const type = String.fromCharCode(frame[0] ?? 0)
    const body = frame.subarray(5).toString('latin1')
    const [first = '', second = ''] = body.split('\0')
    if (type === PARSE) statements.set(first, second)
    const hold =
      type === BIND
        ? noteExecution(statements.get(second) ?? '')
        : type === QUERY
          ? noteExecution(first)
          : null
    if (type === SYNC || type === QUERY) asked += 1
    return hold
  }, true)
  const fromServer = frames((frame) => {
    // The answer to the password exchange ends with a READY that nobody asked for.
    if (String.fromCharCode(frame[0] ?? 0) !== READY) return null
    const due = pending.findIndex(({ answer }) => answer === answered)
    answered += 1
    return due < 0 ? null : (pending.splice(due, 1)[0]?.watch ?? null)
  }, false)
  pump(client, upstream, { line, split: fromClient })
  pump(upstream, client, { line, split: fromServer })
}

/** Splits a byte stream into protocol messages and asks of each whether to stop before passing it on. */
function frames(inspect: (frame: Buffer) => Watch | null, hasUntypedStart: boolean) {
  let rest: Buffer = Buffer.alloc(0)
  let isFirst = hasUntypedStart
  return (chunk: Buffer): { frame: Buffer; hold: Watch | null }[] => {
    rest = Buffer.concat([rest, chunk])
    const found: { frame: Buffer; hold: Watch | null }[] = []
    for (;;) {
      const head = isFirst ? 0 : 1
      if (rest.length < head + 4) return found
      const length = head + rest.readUInt32BE(head)
      if (rest.length < length) return found
      const frame = rest.subarray(0, length)
      rest = rest.subarray(length)
      isFirst = false
      found.push({ frame, hold: inspect(frame) })
    }
  }
}

function pump(
  source: Socket,
  sink: Socket,
  {
    line,
    split,
  }: { line: Line; split: (chunk: Buffer) => { frame: Buffer; hold: Watch | null }[] },
): void {
  let turn = Promise.resolve()
  source.on('data', (chunk) => {
    const parts = split(chunk as Buffer)
    turn = turn.then(async () => {
      for (const { frame, hold } of parts) {
        if (hold) {
          hold.onReached()
          await hold.released
        }
        if (sink.writable && !line.isSilent) sink.write(frame)
      }
    })
  })
  source.on('end', () => {
    void turn.then(() => {
      if (!line.isSilent) sink.end()
    })
  })
}
