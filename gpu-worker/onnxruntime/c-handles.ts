import type { CLibrary, Release } from './c-library.ts'

/** Something that the runtime made and that has to be given back to it, once. */
export interface Handle {
  readonly pointer: bigint
  /** Gives it back; a second time is nothing. */
  release(): void
}

/** Owns what it is given, and gives all of it back together, the last first. */
export interface Owner {
  own(release: Release, pointer: bigint): Handle
  /** Also told when something owned was given back before. */
  releaseAll(): void
}

const live = new Map<Release, number>()

/** How many things of the runtime this thread holds: 0 when everything is closed. */
export function countLiveHandles(): number {
  return [...live.values()].reduce((sum, count) => sum + count, 0)
}

export function createOwner(library: CLibrary): Owner {
  const owned = new Set<Handle>()
  return {
    own(release, pointer) {
      count(release, 1)
      const handle: Handle = {
        pointer,
        release() {
          if (!owned.delete(handle)) return
          count(release, -1)
          library.release(release, pointer)
        },
      }
      owned.add(handle)
      return handle
    },
    releaseAll() {
      for (const handle of [...owned].toReversed()) handle.release()
    },
  }
}

function count(release: Release, change: number): void {
  live.set(release, (live.get(release) ?? 0) + change)
}
