/** Messages of PostgreSQL's protocol 3.0, as far as the proxy has to read and write them. */

/** Splits a byte stream into messages. The first one of a client has no type byte. */
export function createSplitter(hasUntypedStart: boolean): (chunk: Buffer) => Buffer[] {
  let rest: Buffer = Buffer.alloc(0)
  let isFirst = hasUntypedStart
  return (chunk) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk])
    const found: Buffer[] = []
    for (;;) {
      const head = isFirst ? 0 : 1
      if (rest.length < head + 4) return found
      const length = head + rest.readUInt32BE(head)
      if (rest.length < length) return found
      found.push(rest.subarray(0, length))
      rest = rest.subarray(length)
      isFirst = false
    }
  }
}

export function typeOf(frame: Buffer): string {
  return String.fromCharCode(frame[0] ?? 0)
}

/** The first two texts of a message: name and SQL of a Parse, portal and statement of a Bind, SQL of a Query. */
export function textsOf(frame: Buffer): [string, string] {
  const first = frame.indexOf(0, 5)
  const second = frame.indexOf(0, first + 1)
  return [frame.toString('latin1', 5, first), frame.toString('latin1', first + 1, second)]
}

export function parse(name: string, sql: string): Buffer {
  return message('P', `${name}\0${sql}\0\0\0`)
}

export function query(sql: string): Buffer {
  return message('Q', `${sql}\0`)
}

/** A Parse with another text; the declared types of its parameters stay. */
export function withSql(frame: Buffer, sql: string): Buffer {
  const [name] = textsOf(frame)
  const end = frame.indexOf(0, frame.indexOf(0, 5) + 1)
  return message(
    'P',
    Buffer.concat([Buffer.from(`${name}\0${sql}`, 'latin1'), frame.subarray(end)]),
  )
}

export const SYNC = message('S', '')
/** Binds and executes the unnamed statement without parameters. */
export const BIND_AND_EXECUTE = Buffer.concat([
  message('B', '\0\0\0\0\0\0\0\0'),
  message('E', '\0\0\0\0\0'),
])
export const AUTHENTICATION_OK = message('R', '\0\0\0\0')
export const READY_IDLE = message('Z', 'I')

/** What a server says before it closes a connection. */
export function fatal(code: string, text: string): Buffer {
  return message('E', `SFATAL\0VFATAL\0C${code}\0M${text}\0\0`)
}

function message(type: string, body: string | Buffer): Buffer {
  const bytes = typeof body === 'string' ? Buffer.from(body, 'latin1') : body
  const made = Buffer.alloc(5 + bytes.length)
  made.write(type, 0, 'latin1')
  made.writeUInt32BE(4 + bytes.length, 1)
  bytes.copy(made, 5)
  return made
}
