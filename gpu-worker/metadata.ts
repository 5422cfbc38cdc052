/** What the machine's own service says of it: EC2's instance metadata, version 2. */
export interface Metadata {
  /** @returns null when there is nothing under this path @throws when the service does not answer in time */
  read(path: string): Promise<string | null>
}

/** The link-local address of the service on every EC2 instance. */
export const METADATA_ENDPOINT = 'http://169.254.169.254'
const TOKEN_SECONDS = 21_600
const TIMEOUT_MS = 2_000

/** Reads with a token, which is made anew when it is not taken any more. Makes no call yet. */
export function openMetadata(endpoint: string = METADATA_ENDPOINT): Metadata {
  let token: string | null = null
  const call = (path: string, init: RequestInit) =>
    fetch(`${endpoint}${path}`, { ...init, signal: AbortSignal.timeout(TIMEOUT_MS) })
  const newToken = async () => {
    const response = await call('/latest/api/token', {
      method: 'PUT',
      headers: { 'x-aws-ec2-metadata-token-ttl-seconds': String(TOKEN_SECONDS) },
    })
    if (!response.ok) throw new Error(`the metadata service gives no token: ${response.status}`)
    return await response.text()
  }
  const get = async (path: string) =>
    await call(`/latest/meta-data/${path}`, {
      headers: { 'x-aws-ec2-metadata-token': (token ??= await newToken()) },
    })
  return {
    async read(path) {
      let response = await get(path)
      if (response.status === 401) {
        await response.body?.cancel()
        token = null
        response = await get(path)
      }
      const text = await response.text()
      if (response.status === 404) return null
      if (!response.ok) throw new Error(`the metadata service answers ${response.status}`)
      return text
    },
  }
}
