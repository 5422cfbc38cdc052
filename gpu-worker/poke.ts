/** The gateway's answer is of no interest; the sweep does without the hint. */
const TIMEOUT_MS = 2_000

/**
 * A function that tells the gateway of a finished job, so that its webhooks leave at once. It returns right
 * away, never throws and may be called at any rate: one call is under way at a time.
 */
export function createPoke(gatewayUrl: string, secret: string): () => void {
  let isUnderWay = false
  const poke = async () => {
    try {
      const answer = await fetch(new URL('/internal/poke', gatewayUrl), {
        method: 'POST',
        headers: { authorization: `Bearer ${secret}` },
        signal: AbortSignal.timeout(TIMEOUT_MS),
      })
      await answer.body?.cancel()
    } catch {
      // The gateway is away; its next sweep finds the event.
    } finally {
      isUnderWay = false
    }
  }
  return () => {
    if (isUnderWay) return
    isUnderWay = true
    void poke()
  }
}
