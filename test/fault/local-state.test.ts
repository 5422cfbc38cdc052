import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { openState } from '../../infra/local/state.ts'
import { killAll, spawnScript, until } from '../support/worker.ts'
import type { TestProcess } from '../support/worker.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'glyphpress-state-'))
})
afterEach(() => killAll())
afterAll(() => rm(folder, { recursive: true, force: true }))

/** A process that takes the folder and keeps it. */
function hold(dir: string): TestProcess {
  return spawnScript('test/support/hold-state.ts', { args: [dir] })
}

function untilHeld(process: TestProcess): Promise<void> {
  return until(
    () => process.output().includes('held'),
    () => `the folder to be held:\n${process.output()}`,
  )
}

test('a folder is one process’s, which is named to others, until it is killed', async () => {
  const dir = join(folder, 'killed')
  const holder = hold(dir)
  await untilHeld(holder)
  await expect(openState(dir)).rejects.toThrow(
    `already runs on ${dir}, as process ${holder.pid}. Stop it, or name another folder with --state-dir.`,
  )
  holder.kill('SIGKILL')
  await holder.ended
  const state = await openState(dir)
  await expect(openState(dir)).rejects.toThrow(`as process ${process.pid}`)
  state.release()
  state.release()
  ;(await openState(dir)).release()
})

test('the number of a killed holder bars nobody, whoever has it now', async () => {
  const dir = join(folder, 'numbers')
  // In a container that is started again it is often the new process's own, or its parent's.
  for (const pid of [process.pid, process.ppid, 1]) {
    await writeFile(join((await opened(dir)).dir, 'pid'), String(pid))
    const state = await opened(dir)
    expect(await readFile(join(dir, 'pid'), 'utf8')).toBe(String(process.pid))
    expect(state.secrets.pepper).toHaveLength(64)
  }
})

async function opened(dir: string) {
  const state = await openState(dir)
  state.release()
  return state
}

test('of many starts at once, also after a kill, one gets the folder', async () => {
  const dir = join(folder, 'many')
  const first = hold(dir)
  await untilHeld(first)
  first.kill('SIGKILL')
  await first.ended
  const holders = Array.from({ length: 6 }, () => hold(dir))
  const isDecided = () => holders.every((each) => /held|already runs/.test(each.output()))
  await until(isDecided, () => holders.map((each) => each.output()).join('\n'))
  expect(holders.filter((each) => each.output().includes('held'))).toHaveLength(1)
})
