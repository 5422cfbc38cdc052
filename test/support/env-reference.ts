import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { z } from 'zod'
import { nodeSchema, workersSchema } from '../../edge/env.ts'
import { workerSchema } from '../../gpu-worker/env.ts'

const ROOT = resolve(import.meta.dirname, '../..')
type Shape = Record<string, z.ZodType>

/** The reference of all variables, in Markdown: names and needs from the schemas, meanings from the comments beside them. */
export function envReference(): string {
  const notes = new Map([...notesOf('gpu-worker/env.ts'), ...notesOf('edge/env.ts')])
  const table = (shape: Shape) => [
    '| variable | needed | meaning |',
    '| --- | --- | --- |',
    ...Object.entries(shape).map(
      ([name, schema]) => `| \`${name}\` | ${needOf(schema)} | ${notes.get(name) ?? ''} |`,
    ),
  ]
  return [
    '# Environment',
    '',
    'Made from the schemas that check it at the start (`UPDATE_ENV=1 npx vitest run test/unit/env-reference.test.ts`); a test',
    'fails when the two differ. An empty variable counts as one that is not set. Bad and missing ones are named all at once.',
    '',
    '## Gateway and sweep on Node (`npm run gateway`, `npm run sweep`)',
    '',
    'One of `OBJECT_DIR` and `S3_BUCKET` is needed.',
    '',
    ...table(nodeSchema.shape),
    '',
    '## Gateway on Workers (`wrangler.toml`)',
    '',
    'One of the binding `HYPERDRIVE` and `DATABASE_URL` is needed.',
    '',
    ...table(workersSchema.shape),
    '',
    '## Worker (`npm run worker`)',
    '',
    'One of `OBJECT_DIR` and `S3_BUCKET` is needed, and one of `MODEL_DIR` and `ENGINE_URL`.',
    '',
    ...table(workerSchema.shape),
    '',
  ].join('\n')
}

function needOf(schema: z.ZodType): string {
  const { value, success } = schema.safeParse(undefined) as { value?: unknown; success: boolean }
  const given = success ? schema.parse(undefined) : undefined
  if (!success) return '**yes**'
  if (given === undefined) return 'no'
  // That of the worker's id is made of the machine's name.
  const text = JSON.stringify(given ?? value)
  return /[^"]*:\d+"$/.test(text) ? 'no' : `no, ${text}`
}

/** Comments that stand right before a name. */
function notesOf(file: string): [string, string][] {
  const text = readFileSync(join(ROOT, file), 'utf8')
  const found = text.matchAll(/\/\*\*((?:(?!\*\/)[\s\S])*?)\*\/\s*\n\s+([A-Z][A-Z0-9_]+): /g)
  return [...found].map(([, note = '', name = '']) => [
    name,
    note
      .replace(/\s*\n\s*\*\s?/g, ' ')
      .trim()
      .replaceAll('|', '\\|'),
  ])
}
