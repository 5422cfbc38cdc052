import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { fetchModel } from '../../gpu-worker/hub/fetch-model.ts'
import { startHub } from '../support/hub-server.ts'
import type { Fault, HubServer } from '../support/hub-server.ts'

const LARGE = 'transformer/diffusion_pytorch_model-00001-of-00003.safetensors'
const SMALL = 'vae/config.json'
/** More than one read of a socket. */
const bytes = (length: number, seed: number) =>
  Buffer.from(Uint8Array.from({ length }, (_, index) => (index * seed + (index >> 8)) % 251))
const FILES = {
  'model_index.json': { bytes: Buffer.from('{}'), isLarge: false },
  [SMALL]: { bytes: bytes(5_000, 3), isLarge: false },
  [LARGE]: { bytes: bytes(400_000, 7), isLarge: true },
  'a b/ü#.txt': { bytes: Buffer.from('odd'), isLarge: false },
  'empty.bin': { bytes: Buffer.alloc(0), isLarge: true },
}
const TIMES = { pausesMs: [1, 1, 1] }

let dir: string
let hub: HubServer
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'fetch-'))
  hub = await startHub(FILES)
})
afterEach(async () => {
  await hub.close()
  await rm(dir, { recursive: true, force: true })
})

const place = (changes: { token?: string; revision?: string; repository?: string } = {}) => ({
  endpoint: hub.endpoint,
  repository: 'acme/model',
  revision: 'main',
  ...changes,
})
const fetchAll = (options: Parameters<typeof fetchModel>[2] = {}) =>
  fetchModel(place(), dir, { times: TIMES, ...options })

async function expectWhole(): Promise<void> {
  for (const [path, { bytes: own }] of Object.entries(FILES)) {
    expect((await readFile(join(dir, path))).equals(own), path).toBe(true)
  }
  const names = await readdir(dir, { recursive: true })
  expect(names.filter((name) => name.endsWith('.part'))).toEqual([])
}

const downloadsOf = (path: string) =>
  hub.requests.filter((request) => decodeURIComponent(request.path).endsWith(path))

describe('fetching a model', () => {
  test('lays the files out as the repository does, from all pages of its list', async () => {
    const seen: [number, number][] = []
    const report = await fetchAll({ onProgress: (done, total) => void seen.push([done, total]) })
    await expectWhole()
    const total = Object.values(FILES).reduce((sum, { bytes: own }) => sum + own.length, 0)
    expect(report).toMatchObject({ files: 5, fetched: 5, bytes: total, commit: 'a'.repeat(40) })
    expect(seen.at(-1)).toEqual([total, total])
    expect(Math.max(...seen.map(([done]) => done))).toBe(total)
  })

  test('keeps what is there with the right checksum and asks for nothing of it again', async () => {
    await fetchAll()
    hub.requests.length = 0
    expect(await fetchAll()).toMatchObject({ fetched: 0 })
    expect(hub.requests.filter(({ path }) => path.includes('resolve'))).toEqual([])
  })

  test('fetches anew what has the right size and other bytes', async () => {
    await fetchAll()
    await writeFile(join(dir, LARGE), bytes(400_000, 11))
    expect(await fetchAll()).toMatchObject({ fetched: 1 })
    await expectWhole()
  })

  test('goes on after cut connections with what is missing and no more', async () => {
    const cuts: Fault[] = [100_000, 50_000, 60_000].map((after) => ({ kind: 'cut', after }))
    hub.break(LARGE, ...cuts)
    await fetchAll()
    await expectWhole()
    const ranges = downloadsOf(LARGE)
      .filter(({ host }) => host === 'store')
      .map(({ range }) => Number(/^bytes=(\d+)-$/.exec(range ?? 'bytes=0-')?.[1]))
    expect(ranges).toHaveLength(4)
    expect(ranges[0]).toBe(0)
    expect(ranges).toEqual(ranges.toSorted((a, b) => a - b))
    expect(new Set(ranges).size).toBe(4)
  })

  test('goes on in another call, also where the first was ended in the middle', async () => {
    hub.break(LARGE, { kind: 'silence', after: 150_000 })
    const controller = new AbortController()
    const first = fetchAll({
      signal: controller.signal,
      onProgress: (done) => {
        if (done > 100_000) controller.abort()
      },
    })
    await expect(first).rejects.toThrow()
    const kept = (await stat(join(dir, `${LARGE}.part`))).size
    expect(kept).toBeGreaterThan(0)
    await fetchAll()
    await expectWhole()
    expect(downloadsOf(LARGE).at(-1)?.range).toBe(`bytes=${kept}-`)
  })

  test('begins anew with a server that knows no ranges, and after a part of another file', async () => {
    hub.break(LARGE, { kind: 'cut', after: 100_000 }, { kind: 'no ranges' })
    await fetchAll()
    await expectWhole()
    await rm(join(dir, LARGE))
    await writeFile(join(dir, `${LARGE}.part`), bytes(1_000, 13))
    await fetchAll()
    await expectWhole()
  })

  test('takes a connection that says nothing for dead', async () => {
    hub.break(LARGE, { kind: 'silence', after: 10_000 })
    await fetchAll({ silenceMs: 200 })
    await expectWhole()
  })

  test('gives up after so many tries in a row that brought nothing, and keeps what came', async () => {
    const dead: Fault[] = Array.from({ length: 9 }, () => ({ kind: 'status', status: 503 }))
    hub.break(LARGE, { kind: 'cut', after: 100_000 }, ...dead)
    await expect(fetchAll()).rejects.toMatchObject({ code: 'unreachable' })
    expect((await stat(join(dir, `${LARGE}.part`))).size).toBeGreaterThan(0)
    await expect(stat(join(dir, LARGE))).rejects.toThrow('ENOENT')
    hub.break(LARGE)
    await fetchAll()
    await expectWhole()
  })

  test.each([LARGE, SMALL])('never puts wrong bytes in the place of %s', async (path) => {
    hub.break(path, { kind: 'other bytes' })
    await fetchAll()
    await expectWhole()
    await rm(join(dir, path))
    hub.break(path, { kind: 'other bytes' }, { kind: 'other bytes' }, { kind: 'other bytes' })
    await expect(fetchAll()).rejects.toMatchObject({ code: 'wrong_hash' })
    await expect(stat(join(dir, path))).rejects.toThrow('ENOENT')
  })

  test.each<[string, Fault]>([
    ['another range than was asked for', { kind: 'wrong range' }],
    ['sends more than', { kind: 'too many bytes' }],
  ])('refuses a server that answers %s', async (text, fault) => {
    hub.break(LARGE, { kind: 'cut', after: 100_000 }, fault)
    await expect(fetchAll()).rejects.toThrow(text)
  })
})

describe('a hub that says no', () => {
  test('a repository that is not open: the cure is named, without a token and with a wrong one', async () => {
    await hub.close()
    hub = await startHub(FILES, { token: 'right' })
    await expect(fetchAll()).rejects.toMatchObject({
      code: 'not_allowed',
      message: expect.stringMatching(/not open to everybody: set HF_TOKEN .* answers 401/),
    })
    const wrong = fetchModel(place({ token: 'wrong' }), dir, { times: TIMES })
    await expect(wrong).rejects.toThrow(/accept its terms on its page.* answers 403/)
    await fetchModel(place({ token: 'right' }), dir, { times: TIMES })
    await expectWhole()
  })

  test('the token goes to the hub and to no server that it redirects to', async () => {
    await fetchModel(place({ token: 'secret' }), dir, { times: TIMES })
    const of = (host: string) => hub.requests.filter((request) => request.host === host)
    expect(of('hub').every(({ authorization }) => authorization === 'Bearer secret')).toBe(true)
    expect(of('store').length).toBeGreaterThan(0)
    expect(of('store').every(({ authorization }) => authorization === undefined)).toBe(true)
  })

  test('an unknown repository or branch is named', async () => {
    const unknown = fetchModel(place({ revision: 'nowhere' }), dir, { times: TIMES })
    await expect(unknown).rejects.toMatchObject({ code: 'not_found' })
  })

  test('redirects that never end do', async () => {
    await hub.close()
    hub = await startHub(FILES, { loop: true })
    await expect(fetchAll()).rejects.toThrow('more than 5 redirects')
  })

  test.each(['../outside', '/etc/passwd', 'a/../../b', 'a//b', 'a\\..\\b'])(
    'a file named %s is refused, and nothing is written',
    async (name) => {
      await hub.close()
      hub = await startHub(FILES, { names: { [SMALL]: name } })
      await expect(fetchAll()).rejects.toMatchObject({ code: 'hub_invalid' })
      expect(await readdir(dir)).toEqual([])
    },
  )

  test('one that is not there is said to be unreachable', async () => {
    await hub.close()
    await expect(fetchAll()).rejects.toMatchObject({ code: 'unreachable' })
    hub = await startHub(FILES)
  })
})

describe('a disk that is full', () => {
  test('is found before anything is fetched, with what is needed and what there is', async () => {
    await expect(fetchAll({ freeBytes: 100 })).rejects.toMatchObject({
      code: 'no_space',
      message: expect.stringMatching(/0\.0 GB are to come, and the disk has 0\.0 GB free/),
    })
    expect(await readdir(dir)).toEqual([])
  })

  test('in the middle of a file ends the call with that reason and no second try', async () => {
    await mkdir(join(dir, 'transformer'))
    // Whoever writes to it is told that the disk is full.
    await symlink('/dev/full', join(dir, `${LARGE}.part`))
    await expect(fetchAll()).rejects.toMatchObject({ code: 'no_space' })
    expect(downloadsOf(LARGE).filter(({ host }) => host === 'store')).toHaveLength(1)
  })
})

test('the command fetches into the folder that it names and prints how to serve it', async () => {
  const flags = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']
  const script = 'gpu-worker/cli/fetch-model-cli.ts'
  const args = [...flags, script, 'acme/model', '--dir', dir]
  const env = { ...process.env, HF_ENDPOINT: hub.endpoint }
  const { stdout } = await promisify(execFile)(process.execPath, args, { env })
  expect(stdout).toContain('5 files')
  expect(stdout).toContain(`MODEL_DIR=${dir} npm start`)
  await expectWhole()
  const wrong = promisify(execFile)(process.execPath, [...flags, script, 'model'], { env })
  await expect(wrong).rejects.toMatchObject({ code: 2 })
})
