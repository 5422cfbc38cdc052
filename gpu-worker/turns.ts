/** Lets calls in, several at once or one that must be alone, in their order. */
export interface Turns {
  /**
   * Resolves when it is this call's turn; to be left once.
   *
   * @param alone waits until nobody else is in, and nobody comes in till it has left
   * @throws the reason of `signal`
   */
  enter(alone: boolean, signal?: AbortSignal): Promise<void>
  leave(): void
}

interface Waiting {
  alone: boolean
  go: () => void
}

export function createTurns(): Turns {
  const queue: Waiting[] = []
  let inside = 0
  let isClosed = false
  const admit = () => {
    for (let next = queue[0]; next; next = queue[0]) {
      if (isClosed || (next.alone && inside > 0)) return
      queue.shift()
      inside += 1
      isClosed = next.alone
      next.go()
    }
  }
  return {
    enter(alone, signal) {
      return new Promise((resolve, reject) => {
        const onAbort = () => {
          const place = queue.indexOf(own)
          if (place < 0) return
          queue.splice(place, 1)
          reject(signal?.reason)
          // Whoever stood behind it may be next.
          admit()
        }
        const go = () => {
          signal?.removeEventListener('abort', onAbort)
          resolve()
        }
        const own: Waiting = { alone, go }
        queue.push(own)
        signal?.addEventListener('abort', onAbort, { once: true })
        if (signal?.aborted) onAbort()
        else admit()
      })
    },
    leave() {
      inside -= 1
      isClosed = false
      admit()
    },
  }
}
