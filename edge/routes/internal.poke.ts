import { deriveSecret } from '../../db/derive.ts'
import type { Deps } from '../deps.ts'
import { ApiError } from '../errors.ts'
import { createRouter } from '../openapi.ts'
import { peppersOf } from '../pepper.ts'
import { isEqualConstantTime } from '../signed-url.ts'

/**
 * `POST /internal/poke`: a worker that has settled a job asks for its event to be sent now and not at the
 * next beat. Only an advice: losing it costs a second. Proved by the secret derived for `internal`; not in
 * the document, as no customer can call it. Safe to repeat.
 */
export function internalPoke(deps: Deps) {
  const router = createRouter()
  router.post('/internal/poke', async (c) => {
    const given = c.req.header('authorization')
    if (given === undefined) throw new ApiError('key_missing')
    const secrets = await Promise.all(
      peppersOf(deps).map((pepper) => deriveSecret(pepper, 'internal')),
    )
    if (!secrets.some((secret) => isEqualConstantTime(`Bearer ${secret}`, given)))
      throw new ApiError('key_invalid')
    deps.pokeSweep()
    return c.body(null, 202)
  })
  return router
}
