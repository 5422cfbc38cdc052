import { expect, test } from 'vitest'
import { createUploadPlaces } from '../../../edge/upload-places.ts'

/** Work that goes on until it is told to end. */
function openWork() {
  let end = () => {}
  const work = new Promise<void>((resolve) => (end = resolve))
  return { work: () => work, end }
}

test('an org has four places, all together have so many, and each is free again when its work ends or fails', async () => {
  const places = createUploadPlaces(5)
  const works = Array.from({ length: 5 }, openWork)
  const held = works.map(({ work }, at) => places.hold(at < 4 ? 'org_a' : 'org_b', work))
  await expect(places.hold('org_a', async () => 1)).rejects.toMatchObject({ kind: 'rate_limited' })
  await expect(places.hold('org_c', async () => 1)).rejects.toMatchObject({ kind: 'unavailable' })
  works[0]?.end()
  await held[0]
  expect(await places.hold('org_a', async () => 1)).toBe(1)
  const failed = places.hold('org_c', () => Promise.reject(new Error('no luck')))
  await expect(failed).rejects.toThrow('no luck')
  expect(await places.hold('org_c', async () => 2)).toBe(2)
  for (const { end } of works) end()
  await Promise.all(held)
})
