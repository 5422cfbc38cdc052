import { execFile } from 'node:child_process'
import { join, resolve } from 'node:path'
import { runAdmin } from '../../infra/admin/admin-cli.ts'
import type { AdminEnv } from '../../infra/admin/place.ts'

const ROOT = resolve(import.meta.dirname, '../..')
const FLAGS = ['--disable-warning=ExperimentalWarning', '--experimental-strip-types']

export interface AdminAnswer {
  code: number
  out: string
  err: string
}

/** One command line, in this process. */
export async function admin(env: AdminEnv, ...typed: string[]): Promise<AdminAnswer> {
  const said = { out: [] as string[], err: [] as string[] }
  const code = await runAdmin(typed, env, {
    out: (text) => said.out.push(text),
    err: (text) => said.err.push(text),
  })
  return { code, out: said.out.join('\n'), err: said.err.join('\n') }
}

/** What a command answers a machine. @throws with its words when it fails */
// oxlint-disable-next-line typescript/no-explicit-any
export async function adminJson(env: AdminEnv, ...typed: string[]): Promise<any> {
  const { code, out, err } = await admin(env, ...typed, '--json')
  if (code !== 0) throw new Error(`${typed.join(' ')} ended with ${code}: ${err}`)
  return JSON.parse(out)
}

/** One command line as a process of its own, with only these variables of ours. */
export function spawnAdmin(env: Record<string, string>, ...typed: string[]): Promise<AdminAnswer> {
  const { DATABASE_URL: _, KEY_PEPPER: __, ...clean } = process.env
  return new Promise((done) => {
    execFile(
      process.execPath,
      [...FLAGS, join(ROOT, 'infra/admin/admin-cli.ts'), ...typed],
      { env: { ...clean, ...env } },
      (error, out, err) => done({ code: error ? Number(error.code ?? -1) : 0, out, err }),
    )
  })
}
