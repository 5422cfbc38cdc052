/** A shorter one could be guessed from a copy of the database. */
export const MIN_PEPPER_CHARACTERS = 32

/**
 * The server's secret, from which every other secret is derived. To rotate it: give the old one as the previous
 * one, make new keys and hand out the webhook secrets anew, and take the old one away once nothing needs it.
 */
export interface Peppers {
  /** What is made, is made under this one. */
  readonly pepper: string
  /** What was made under this one stays good for as long as it is given. */
  readonly previousPepper?: string | undefined
}

/** The peppers under which something may have been made, the current one first. */
export function peppersOf({ pepper, previousPepper }: Peppers): readonly string[] {
  return previousPepper === undefined ? [pepper] : [pepper, previousPepper]
}
