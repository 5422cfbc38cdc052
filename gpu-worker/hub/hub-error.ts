export type HubErrorCode =
  /** The hub wants a token, or one that may read this repository. */
  | 'not_allowed'
  | 'not_found'
  /** What the hub says makes no sense, or is not safe to follow. */
  | 'hub_invalid'
  | 'no_space'
  /** The bytes are not those that the hub's metadata names, again and again. */
  | 'wrong_hash'
  | 'unreachable'

/** Why a model could not be fetched. What was received so far is kept, and another call goes on from there. */
export class HubError extends Error {
  readonly code: HubErrorCode

  constructor(code: HubErrorCode, message: string, options: { cause?: unknown } = {}) {
    super(message, 'cause' in options ? { cause: options.cause } : {})
    this.name = 'HubError'
    this.code = code
  }
}
