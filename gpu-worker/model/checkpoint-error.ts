/** A checkpoint that cannot be used: the message names the file and what is wrong with it. */
export class CheckpointError extends Error {
  readonly code = 'model_invalid'
  readonly retryable = false
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'CheckpointError'
  }
}
