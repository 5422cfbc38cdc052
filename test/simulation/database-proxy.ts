import { connect, createServer } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import type { FaultLedger } from './fault-ledger.ts'
import { DATABASE_FAULTS } from './fault-plan.ts'
import type { DatabaseFault, FaultPlan } from './fault-plan.ts'
import {
  AUTHENTICATION_OK,
  BIND_AND_EXECUTE,
  READY_IDLE,
  SYNC,
  createSplitter,
  fatal,
  parse,
  query,
  textsOf,
  typeOf,
  withSql,
} from './postgres-frames.ts'
import { commitOf, isPlumbing, pointOf } from './statement-points.ts'
import type { StatementPoint } from './statement-points.ts'

export interface DatabaseProxy {
  /** The same database, reached through the proxy. */
  readonly url: string
  close(): Promise<void>
}

export interface ProxyOptions {
  readonly plan: FaultPlan
  readonly ledger: FaultLedger
  /** After so long without an answer a caller has certainly given up. */
  readonly silenceMs: number
  /** Changes the text of a statement on its way: a mistake of the code that wrote it. */
  readonly rewrite?: (sql: string) => string
}

/** In a transaction the server would have ended it by the time at which a statement arrives late. */
const IN_TRANSACTION = DATABASE_FAULTS.filter((kind) => kind !== 'statement late')

/** With these the server itself refuses, in place of the statement, so that its transaction fails as it would. */
const REFUSALS: Partial<Record<DatabaseFault, readonly [code: string, text: string]>> = {
  deadlock: ['40P01', 'deadlock detected'],
  'statement timeout': ['57014', 'canceling statement due to statement timeout'],
  'disk full': ['53100', 'could not extend file: No space left on device'],
  failover: ['25006', 'cannot execute in a read-only transaction'],
}

/**
 * Stands between the product and PostgreSQL and lets faults fire at statements that it knows by their text.
 *
 * When a client's connection is cut, the server's end is rolled back, reset by DISCARD ALL and given to the next
 * client: to both sides that is a new connection, and the server does not have to start a process for it.
 */
export async function startDatabaseProxy(
  databaseUrl: string,
  options: ProxyOptions,
): Promise<DatabaseProxy> {
  const target = new URL(databaseUrl)
  const parked: Backend[] = []
  const backends = new Set<Backend>()
  const clients = new Set<Socket>()
  const server = createServer({ noDelay: true }, (socket) => {
    clients.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => clients.delete(socket))
    serve(socket, {
      ...options,
      take: (startup) => {
        const index = parked.findIndex((backend) => backend.startup.equals(startup))
        if (index >= 0) return parked.splice(index, 1)[0]!
        const backend = openBackend(target, startup, () => {
          backends.delete(backend)
          const at = parked.indexOf(backend)
          if (at >= 0) parked.splice(at, 1)
        })
        backends.add(backend)
        return backend
      },
      park: (backend) => void parked.push(backend),
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = new URL(databaseUrl)
  url.port = String((server.address() as AddressInfo).port)
  return {
    url: url.href,
    async close() {
      for (const socket of clients) socket.destroy()
      for (const { socket } of backends) socket.destroy()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** One connection to the server, with what its state allows to be done next. */
interface Backend {
  readonly startup: Buffer
  readonly socket: Socket
  /** Messages that every client wants to see after it has been let in; filled by the first one. */
  greeting: Buffer[]
  isKnown: boolean
  /** Syncs and queries sent, and how many were answered. */
  asked: number
  answered: number
  /** Something was sent since the last sync. */
  isUnsynced: boolean
  /** `I` idle, `T` in a transaction, `E` in a failed one. */
  status: string
  onFrame: (frame: Buffer) => void
  /** After the last whole message of what came at once: time to write, once. */
  onChunkEnd: () => void
  onEnd: () => void
}

function openBackend(target: URL, startup: Buffer, onGone: () => void): Backend {
  const socket = connect({ port: Number(target.port), host: target.hostname, noDelay: true })
  const backend: Backend = {
    startup,
    socket,
    greeting: [],
    isKnown: false,
    // The answer to the password exchange ends with a word that nobody asked for.
    asked: 1,
    answered: 0,
    isUnsynced: false,
    status: 'I',
    onFrame: () => {},
    onChunkEnd: () => {},
    onEnd: () => {},
  }
  const split = createSplitter(false)
  socket.on('data', (chunk: Buffer) => {
    for (const frame of split(chunk)) {
      if (typeOf(frame) === 'Z') {
        backend.answered += 1
        backend.status = String.fromCharCode(frame[5] ?? 0)
      }
      backend.onFrame(frame)
    }
    backend.onChunkEnd()
  })
  socket.on('error', () => {})
  socket.on('close', () => {
    onGone()
    backend.onEnd()
  })
  return backend
}

interface ServeOptions extends ProxyOptions {
  take(startup: Buffer): Backend
  park(backend: Backend): void
}

/** What is to happen to the answer of a statement that is under way. */
interface Pending {
  point: StatementPoint
  kind: 'cut after' | 'answer late' | 'statement late'
  /** Number of its answer on this connection. */
  answer: number
}

/** Relays one client until one of the two sides ends, or a fault ends it. */
function serve(client: Socket, options: ServeOptions): void {
  const { plan, ledger, silenceMs } = options
  const statements = new Map<string, string>()
  let backend: Backend | null = null
  let pending: Pending | null = null
  let held: Buffer[] = []
  let lastPoint: StatementPoint | null = null
  /** The client's messages are dropped up to its next sync: something else was sent in place of them. */
  let isReplaced = false
  let isOver = false
  /** The client hears nothing any more and its messages go nowhere; its socket stays open. */
  let isMute = false
  let toBeRead: Buffer[] = []
  let toBeDone: Buffer[] = []

  const flushToClient = () => {
    if (toBeRead.length > 0 && !isOver && !isMute) client.write(joined(toBeRead))
    toBeRead = []
  }
  const flushToServer = () => {
    if (toBeDone.length > 0) backend?.socket.write(joined(toBeDone))
    toBeDone = []
  }
  const send = (frame: Buffer) => {
    if (!backend) return
    const type = typeOf(frame)
    const ends = type === 'S' || type === 'Q'
    if (ends) backend.asked += 1
    backend.isUnsynced = !ends
    toBeDone.push(frame)
  }
  /** Gives the server's end back once it has answered all that it was sent. */
  const release = () => {
    flushToServer()
    const mine = backend
    backend = null
    if (!mine) return
    if (!mine.isKnown) return void mine.socket.destroy()
    resetBackend(mine, () => options.park(mine))
  }
  const cut = (lastWords?: Buffer) => {
    flushToClient()
    isOver = true
    if (lastWords) client.end(lastWords, () => client.destroy())
    else client.destroy()
    release()
  }
  const mute = () => {
    isMute = true
    release()
  }

  const strike = (
    kind: DatabaseFault,
    point: StatementPoint,
    frame: Buffer,
    isCommit: boolean,
  ): void => {
    const mine = backend
    if (!mine) return
    const refusal = REFUSALS[kind]
    if (refusal) {
      ledger.note(point.name, kind)
      const [code, text] = refusal
      const sql = `do $fault$ begin raise exception using errcode = '${code}', message = '${text}'; end $fault$`
      if (typeOf(frame) === 'Q') return send(query(sql))
      // A commit that fails has ended its transaction.
      for (const text of isCommit ? ['rollback', sql] : [sql]) {
        send(parse('', text))
        send(BIND_AND_EXECUTE)
      }
      isReplaced = true
      return
    }
    switch (kind) {
      case 'cut before':
        ledger.note(point.name, kind)
        return cut()
      case 'shutdown':
        ledger.note(point.name, kind)
        return cut(fatal('57P01', 'terminating connection due to administrator command'))
      case 'statement late':
        ledger.note(point.name, kind)
        isMute = true
        flushToServer()
        backend = null
        return arriveLate(mine, frame, silenceMs, () =>
          resetBackend(mine, () => options.park(mine)),
        )
      case 'cut after':
      case 'answer late':
        pending = { point, kind, answer: mine.asked + 1 }
        return send(frame)
      case 'deadlock':
      case 'statement timeout':
      case 'disk full':
      case 'failover':
        // Refused above.
        return
    }
  }

  const execute = (sql: string, frame: Buffer): void => {
    if (isPlumbing(sql)) return send(frame)
    const isCommit = /^\s*commit/i.test(sql)
    const point = isCommit ? commitOf(lastPoint) : pointOf(sql, () => frame.toString('latin1'))
    lastPoint = isCommit ? null : point
    const isAlone = backend?.status === 'I' && typeOf(frame) !== 'Q'
    if (!plan.isQuiet) ledger.reach(point.name, isAlone)
    const kind = pending ? null : plan.next(point, isAlone ? DATABASE_FAULTS : IN_TRANSACTION)
    if (kind === null) return send(frame)
    strike(kind, point, frame, isCommit)
  }

  const fromClient = (frame: Buffer): void => {
    if (isOver || isMute) return
    const mine = backend
    if (!mine) return
    const type = typeOf(frame)
    if (isReplaced) {
      if (type !== 'S') return
      isReplaced = false
      return send(frame)
    }
    if (type === 'P') {
      const [name, written] = textsOf(frame)
      const sql = options.rewrite?.(written) ?? written
      statements.set(name, sql)
      return send(sql === written ? frame : withSql(frame, sql))
    }
    if (type === 'B') return execute(statements.get(textsOf(frame)[1]) ?? '', frame)
    if (type === 'Q') return execute(textsOf(frame)[0], frame)
    if (type === 'X') return cut()
    send(frame)
  }

  const toClient = (frame: Buffer): void => {
    const mine = backend
    if (!mine || isOver) return
    const type = typeOf(frame)
    if (!mine.isKnown) {
      if (type === 'S' || type === 'K') mine.greeting.push(Buffer.from(frame))
      if (type === 'Z') mine.isKnown = true
      toBeRead.push(frame)
      return
    }
    // The answers before the one that is meant went on their way.
    const isMeant = pending !== null && mine.answered >= pending.answer - (type === 'Z' ? 0 : 1)
    if (!pending || !isMeant) return void toBeRead.push(frame)
    held.push(frame)
    if (type !== 'Z') return
    const { point, kind } = pending
    const hasFailed = held.some((one) => typeOf(one) === 'E')
    pending = null
    if (hasFailed) {
      // Nothing was done, so the answer tells no lie and there is no fault.
      toBeRead.push(...held)
      held = []
      return
    }
    held = []
    flushToClient()
    ledger.note(point.name, kind)
    if (kind === 'cut after') cut()
    else mute()
  }

  const split = createSplitter(true)
  let isStarted = false
  client.on('data', (chunk: Buffer) => {
    for (const frame of split(chunk)) {
      if (isStarted) {
        fromClient(frame)
        continue
      }
      isStarted = true
      backend = options.take(Buffer.from(frame))
      backend.onFrame = toClient
      backend.onChunkEnd = flushToClient
      backend.onEnd = () => {
        if (!isMute) client.destroy()
      }
      if (backend.isKnown)
        client.write(Buffer.concat([AUTHENTICATION_OK, ...backend.greeting, READY_IDLE]))
      else backend.socket.write(frame)
    }
    flushToServer()
  })
  client.on('close', () => {
    isOver = true
    release()
  })
}

function joined(frames: readonly Buffer[]): Buffer {
  const [first] = frames
  return first && frames.length === 1 ? first : Buffer.concat(frames)
}

/** Waits for what is under way, then makes the connection as new. */
function resetBackend(backend: Backend, onReset: () => void): void {
  const { socket } = backend
  backend.onChunkEnd = () => {}
  backend.onEnd = () => {}
  const say = (frame: Buffer) => {
    backend.asked += 1
    backend.isUnsynced = false
    socket.write(frame)
  }
  if (backend.isUnsynced) say(SYNC)
  let isResetting = false
  const go = () => {
    if (backend.answered < backend.asked) return
    if (isResetting && backend.status === 'I') {
      backend.onFrame = () => {}
      return onReset()
    }
    isResetting = backend.status === 'I'
    say(query(isResetting ? 'discard all' : 'rollback'))
  }
  backend.onFrame = (frame) => {
    if (typeOf(frame) === 'Z') go()
  }
  go()
}

/** Sends a bound statement to the server after its caller has given up. */
function arriveLate(backend: Backend, bind: Buffer, afterMs: number, onDone: () => void): void {
  backend.onChunkEnd = () => {}
  backend.onFrame = () => {}
  backend.onEnd = () => {}
  // Its transaction begins when it arrives, and not when it was announced.
  if (backend.isUnsynced) {
    backend.asked += 1
    backend.isUnsynced = false
    backend.socket.write(SYNC)
  }
  setTimeout(() => {
    if (backend.socket.destroyed) return
    backend.asked += 1
    backend.isUnsynced = false
    backend.socket.write(Buffer.concat([bind, EXECUTE, SYNC]))
    onDone()
  }, afterMs)
}

/** Of the unnamed portal, all rows. */
const EXECUTE = BIND_AND_EXECUTE.subarray(-10)
