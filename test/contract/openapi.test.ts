import { readFile, writeFile } from 'node:fs/promises'
import { describe, expect, test } from 'vitest'
import { createApp } from '../../edge/app.ts'
import type { Deps } from '../../edge/deps.ts'
import { ERRORS } from '../../edge/errors.ts'
import { listRoutes } from '../support/contract-check.ts'

const COMMITTED = new URL('openapi.json', import.meta.url)

/** Refreshed by `UPDATE_OPENAPI=1`, so that a change of the contract shows in review. */
test('the committed document is what the gateway serves', async () => {
  const response = await createApp({ log: () => {} } as unknown as Deps).request('/openapi.json')
  const served: unknown = await response.json()
  if (process.env.UPDATE_OPENAPI) await writeFile(COMMITTED, `${JSON.stringify(served, null, 2)}\n`)
  expect(served).toEqual(JSON.parse(await readFile(COMMITTED, 'utf8')))
})

describe('every route of the document', () => {
  const routes = listRoutes().map((route) => ({ ...route, name: `${route.method} ${route.path}` }))

  test.each(routes)('$name demands its body, if it takes one', ({ request }) => {
    if (request?.body) expect(request.body).toMatchObject({ required: true })
  })

  test.each(routes)('$name lists key errors exactly when it needs a key', (route) => {
    const isPublic = route.security?.length === 0
    const listed = JSON.stringify(route.responses[401] ?? null)
    if (!route.path.startsWith('/internal/')) expect(listed.includes('key_invalid')).toBe(!isPublic)
  })

  test.each(routes)('$name lists the size limit when it takes a body', ({ request, responses }) => {
    if (request?.body) expect(Object.keys(responses)).toContain('413')
  })
})

describe('the table of errors', () => {
  test('codes are digits, as clients that read them as numbers need', () => {
    for (const { code } of Object.values(ERRORS)) expect(code).toMatch(/^\d{4}$/)
  })

  test('a temporary refusal and a hopeless one never share code and status', () => {
    const spellings = Object.values(ERRORS).map(
      (kind) => `${kind.code} ${kind.status} ${kind.retryable}`,
    )
    for (const spelling of spellings) {
      const opposite = spelling.endsWith('true')
        ? spelling.replace('true', 'false')
        : spelling.replace('false', 'true')
      expect(spellings).not.toContain(opposite)
    }
  })
})
