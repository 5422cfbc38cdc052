import { createRoute, z } from '@hono/zod-openapi'
import { findOutput } from '../../db/jobs.ts'
import type { OutputRow } from '../../db/jobs.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { createRouter, errorResponses } from '../openapi.ts'
import { verifyOutputUrl } from '../signed-url.ts'

/** Long enough for the client to follow the redirect at once; it is no link to keep. */
const PRESIGNED_SECONDS = 300
/** Caches may keep a picture this long, so that a deleted one is gone from them soon. */
const MAX_CACHE_SECONDS = 3_600

const signedPart = z.string().optional().catch(undefined)
const bytes = { schema: z.string().openapi({ format: 'binary' }) }

const route = createRoute({
  method: 'get',
  path: '/v1/files/{job_id}/{file}',
  tags: ['Results'],
  summary: 'The bytes of a picture, by its signed URL; needs no key',
  security: [],
  request: {
    params: z.object({
      job_id: z.string().openapi({ example: 'job_01k...' }),
      file: z.string().openapi({ example: '0.png' }),
    }),
    query: z.object({
      // Whatever is wrong with them is a bad signature, said in one way.
      exp: signedPart.openapi({
        type: 'string',
        description: 'Unix seconds; part of the signed URL.',
      }),
      sig: signedPart.openapi({ type: 'string', description: 'Part of the signed URL.' }),
    }),
  },
  responses: {
    200: {
      description: 'The picture.',
      content: {
        'image/png': bytes,
        'image/webp': bytes,
        'image/jpeg': bytes,
        'image/avif': bytes,
      },
    },
    302: { description: 'Where the object store serves the picture for the next minutes.' },
    304: { description: 'The client has it already.' },
    ...errorResponses('bad_signature', 'gone', 'internal', 'unavailable'),
  },
})

/**
 * `GET /v1/files/{job_id}/{idx}.{format}?exp=&sig=`. The signature is the whole authority: a key that a
 * client sends along is neither needed nor looked at. Bytes come from the store by a stream or, where
 * callers can reach it, by a redirect to a presigned URL.
 */
export function filesGet(deps: Deps) {
  return createRouter().openapi(route, async (c) => {
    const { job_id: jobId, file } = c.req.valid('param')
    const { exp = '', sig = '' } = c.req.valid('query')
    const verdict = await verifyOutputUrl(deps, { path: `/v1/files/${jobId}/${file}`, exp, sig })
    if (!verdict.ok && verdict.reason === 'expired')
      throw new ApiError('gone', { message: 'The URL has expired; ask for a new one.' })
    if (!verdict.ok) throw new ApiError('bad_signature')
    const output = await findOutput(deps.db, { jobId, idx: Number.parseInt(file, 10) })
    if (output === null || output.deletedAt !== null) throw deleted()
    const headers = headersOf(output, file, verdict.expiresAt, deps.now())
    if (c.req.header('if-none-match')?.includes(output.sha256) === true)
      return new Response(null, { status: 304, headers })
    return c.req.method === 'HEAD'
      ? new Response(null, { headers: { ...headers, 'content-length': String(output.sizeBytes) } })
      : serve(deps, output, headers)
  })
}

async function serve(
  deps: Deps,
  output: OutputRow,
  headers: Record<string, string>,
): Promise<Response> {
  if (deps.objects.presign !== undefined) {
    const location = await deps.objects.presign(
      output.objectKey,
      PRESIGNED_SECONDS,
      output.contentType,
    )
    // The target is short-lived, so the redirect must not be kept.
    return new Response(null, {
      status: 302,
      headers: { location, 'cache-control': 'no-store', 'access-control-allow-origin': '*' },
    })
  }
  const stored = await deps.objects.read(output.objectKey)
  if (stored === null) throw deleted()
  return new Response(stored.body, {
    headers: { ...headers, 'content-length': String(stored.sizeBytes) },
  })
}

function headersOf(
  output: OutputRow,
  file: string,
  expiresAt: Date,
  now: Date,
): Record<string, string> {
  const remaining = Math.floor((expiresAt.getTime() - now.getTime()) / 1000)
  return {
    etag: `"${output.sha256}"`,
    'content-type': output.contentType,
    'content-disposition': `inline; filename="${output.jobId}-${file}"`,
    'cache-control': `private, max-age=${Math.min(remaining, MAX_CACHE_SECONDS)}, immutable`,
    // Pages of any origin may show the picture: the URL itself is the permission.
    'access-control-allow-origin': '*',
    'cross-origin-resource-policy': 'cross-origin',
    // A browser must take the bytes for a picture and nothing else.
    'x-content-type-options': 'nosniff',
    'content-security-policy': "default-src 'none'; sandbox",
  }
}

function deleted(): ApiError {
  return new ApiError('gone', { message: 'The picture was deleted.' })
}
