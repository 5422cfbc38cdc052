import { execFile, execFileSync } from 'node:child_process'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'

const ROOT = resolve(import.meta.dirname, '../..')
const NODE = join(ROOT, 'node_modules/.bin/node')

/** Whether this machine lets us have a network of our own, with nothing in it. */
const why = (() => {
  try {
    execFileSync('unshare', ['-n', 'sh', '-c', 'ip link set lo up'], { stdio: 'pipe' })
    return null
  } catch (error) {
    return String(error)
  }
})()
if (why !== null) console.warn(`SKIPPED: no network namespace can be had here: ${why}`)

/** Inside the namespace: everything starts, a key is shown, a picture is made, fetched and told by its first bytes. */
const SCRIPT = `
set -eu
ip link set lo up
test -z "$(ip route)"
"$NODE" --disable-warning=ExperimentalWarning --experimental-strip-types infra/local/start.ts \
  --port 8787 --state-dir "$STATE" --threads 1 > "$STATE.log" 2>&1 &
start=$!
trap 'kill $start; wait $start || true' EXIT
for _ in $(seq 1 240); do
  grep -q 'gp_[a-z]*_' "$STATE.log" && break
  kill -0 $start
  sleep 0.5
done
key=$(grep -o 'gp_[A-Za-z0-9_]*' "$STATE.log" | head -1)
"$NODE" -e '
const [key] = process.argv.slice(1)
const answer = await fetch("http://127.0.0.1:8787/v1/images/generations", {
  method: "POST",
  headers: { authorization: "Bearer " + key, "content-type": "application/json" },
  body: JSON.stringify({ model: "glm-image", prompt: "A sign", n: 1 }),
})
const body = await answer.json()
if (!answer.ok) throw new Error(JSON.stringify(body))
const picture = await fetch(body.data[0].url)
const bytes = Buffer.from(await picture.arrayBuffer())
const outside = await fetch("http://192.0.2.1/", { signal: AbortSignal.timeout(3000) }).then(() => "reached", () => "none")
console.log(JSON.stringify({ status: picture.status, magic: bytes.subarray(1, 4).toString(), outside }))
' --input-type=module -- "$key"
`

test.skipIf(why !== null)(
  'the whole stack draws and serves a picture in a network without any route',
  async () => {
    const folder = await mkdtemp(join(tmpdir(), 'glyphpress-air-'))
    await chmod(folder, 0o755)
    try {
      const { stdout } = await promisify(execFile)('unshare', ['-n', 'sh', '-c', SCRIPT], {
        cwd: ROOT,
        env: { PATH: process.env.PATH ?? '', HOME: folder, NODE, STATE: join(folder, 'state') },
        timeout: 240_000,
      })
      expect(JSON.parse(stdout.trim().split('\n').at(-1) ?? '')).toEqual({
        status: 200,
        magic: 'PNG',
        outside: 'none',
      })
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  },
  300_000,
)
