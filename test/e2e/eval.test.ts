import { execFile } from 'node:child_process'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { reportSchema } from '../../gpu-worker/eval/report.ts'
import type { EvalReport } from '../../gpu-worker/eval/report.ts'
import type { ImageServer } from '../support/image-server.ts'
import { startTextServer } from '../support/text-server.ts'
import { killAll, MODEL_DIR, spawnScript, until } from '../support/worker.ts'

vi.setConfig({ testTimeout: 240_000 })

const CLI = 'gpu-worker/eval/eval-cli.ts'
let folder: string
let server: ImageServer
let spell = (text: string) => text
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'eval-'))
  server = await startTextServer((text) => spell(text), { sizePx: 44 })
})
afterAll(async () => {
  await killAll()
  await server.close()
  await rm(folder, { recursive: true })
})

async function evaluate(...args: string[]): Promise<{ code: number; out: string }> {
  const flags = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types', CLI]
  return promisify(execFile)(process.execPath, [...flags, ...args], {
    env: { ...process.env, INIT_CWD: folder },
  })
    .then(({ stdout }) => ({ code: 0, out: stdout }))
    .catch((error: { code: number; stdout: string; stderr: string }) => ({
      code: error.code,
      out: error.stdout + error.stderr,
    }))
}

async function reportOf(name: string): Promise<EvalReport> {
  return reportSchema.parse(JSON.parse(await readFile(join(folder, name, 'report.json'), 'utf8')))
}

const api = () => ['--target', `${server.url}/v1`, '--size', '512x512']

describe('npm run eval', () => {
  test('gives a server that spells right a score near 1, with pictures and a page', async () => {
    spell = (text) => text
    const { code, out } = await evaluate('--suite', 'ours', '--n', '12', '--out', 'right', ...api())
    expect([code, out]).toEqual([0, expect.stringContaining('report.html')])
    const report = await reportOf('right')
    expect(report.overall.accuracy).toBeGreaterThan(0.97)
    expect(report.overall.ned).toBeGreaterThan(0.98)
    expect(report.byRegions.map(({ group }) => group)).toEqual(['1', '2', '3'])
    expect(report.items).toHaveLength(12)
    expect(await readdir(join(folder, 'right', 'pictures'))).toHaveLength(12)
    expect(await readFile(join(folder, 'right', 'report.html'), 'utf8')).toContain('Word accuracy')
  })

  test('scores known misspellings as reckoned by hand, by each protocol', async () => {
    // OPEN DAILY becomes OPFN DAILY: of the 7 words of these two prompts one is wrong in each.
    spell = (text) => text.replace('OPEN', 'OPFN')
    const prompts = ["signs 'OPEN DAILY' and 'Cash only'", "signs 'OPEN', 'Wet paint'"]
    const file = join(folder, 'two.json')
    await writeFile(
      file,
      JSON.stringify({ data_list: prompts.map((prompt, index) => ({ index, prompt })) }),
    )
    await evaluate('--suite', 'cvtg2k', '--prompts', file, '--out', 'wrong', ...api())
    const cvtg = await reportOf('wrong')
    expect(cvtg.overall).toMatchObject({ pictures: 2, words: 7 })
    expect(cvtg.overall.accuracy).toBeCloseTo(5 / 7, 9)
    expect(cvtg.overall.ned).toBeCloseTo((5 + 2 * (1 - 1 / (4 + 1e-5))) / 7, 9)
    expect(cvtg).toMatchObject({
      isPublishedSet: true,
      protocol: { differs: expect.stringContaining('PP-OCRv6') },
    })
    const page = await readFile(join(folder, 'wrong', 'report.html'), 'utf8')
    expect(page).toContain('<span class="missing">OPEN</span>')
    expect(page).toContain('Nano Banana 2.0')

    const long = join(folder, 'long.jsonl')
    await writeFile(
      long,
      JSON.stringify({
        prompt_id: 'a',
        prompt: 'A sign "OPEN at nine, OPEN at ten"',
        text: ['OPEN at nine, OPEN at ten'],
      }),
    )
    await evaluate('--suite', 'longtext', '--prompts', long, '--out', 'long', ...api())
    // The server spells the first OPEN alone wrong: 5 of 6 words.
    expect((await reportOf('long')).overall).toEqual({
      pictures: 1,
      words: 6,
      accuracy: 5 / 6,
      ned: null,
    })
  })

  test('goes on where it was killed, draws nothing twice, and refuses another run in its folder', async () => {
    spell = (text) => text
    server.asked.length = 0
    const args = ['--suite', 'cvtg2k', '--n', '6', '--out', join(folder, 'resumed'), ...api()]
    const first = spawnScript(CLI, { args })
    const log = join(folder, 'resumed', 'results.jsonl')
    const lines = async () => (await readFile(log, 'utf8').catch(() => '')).split('\n').length - 1
    await until(
      async () => (await lines()) >= 2,
      () => `two results:\n${first.output()}`,
    )
    first.kill('SIGKILL')
    await first.ended
    const kept = await lines()
    // Half a line, as a crash may leave it.
    await writeFile(log, `${await readFile(log, 'utf8')}{"id": "4`)
    const before = server.asked.length
    expect((await evaluate(...args)).code).toBe(0)
    expect(server.asked.length - before).toBe(6 - kept)
    const { items, overall } = await reportOf('resumed')
    expect(new Set(items.map(({ id }) => id)).size).toBe(6)
    expect(overall.accuracy).toBeGreaterThan(0.9)
    const again = server.asked.length
    expect((await evaluate(...args)).code).toBe(0)
    expect(server.asked.length).toBe(again)
    expect(await evaluate(...args, '--seed', '2')).toMatchObject({
      code: 2,
      out: expect.stringContaining('seed'),
    })
  })

  test('ends at once where the target draws nothing, and says why', async () => {
    const usual = server.instead.get('/v1/images/generations')!
    server.instead.set('/v1/images/generations', (response) =>
      response.writeHead(401).end('no key'),
    )
    const { code, out } = await evaluate(
      '--suite',
      'ours',
      '--n',
      '30',
      '--out',
      'refused',
      ...api(),
    )
    server.instead.set('/v1/images/generations', usual)
    expect([code, out]).toEqual([1, expect.stringContaining('the API answers 401: no key')])
  })

  test('measures the bundled checkpoint, and its report says what it draws', async () => {
    const flags = ['--suite', 'ours', '--n', '3', '--out', 'local', '--model', MODEL_DIR]
    const { code } = await evaluate(...flags)
    expect(code).toBe(0)
    const report = await reportOf('local')
    expect(report).toMatchObject({
      target: 'local',
      wished: 3,
      failed: 0,
      weightsHash: expect.any(String),
    })
    expect(report.items).toHaveLength(3)
    const page = await readFile(join(folder, 'local', 'report.html'), 'utf8')
    // A checkpoint of random weights draws noise; another one may spell.
    if (report.notice !== null) expect(page).toContain('The model says of itself')
    if ((report.overall.accuracy ?? 0) < 0.05) expect(page).toContain('hold no legible text')
  })

  test('compares two reports, with intervals', async () => {
    spell = (text) => text.replace('E', 'F')
    await evaluate('--suite', 'ours', '--n', '12', '--out', 'worse', ...api())
    const { code, out } = await evaluate('--compare', 'right', 'worse')
    expect(code).toBe(0)
    expect(out).toMatch(
      /^all +accuracy +12 prompts +A 0\.9\d+|^all +accuracy +12 prompts +A 1\.0000/m,
    )
    expect(out).toMatch(/all .*B-A -0\.\d{4} \[-0\.\d{4}, -0\.\d{4}\] +worse/)
    expect((await evaluate('--compare', 'right', 'nowhere')).code).toBe(2)
  })
})
