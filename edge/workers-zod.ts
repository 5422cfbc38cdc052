/**
 * zod for the Worker's bundle; `wrangler.toml` puts it in the place of zod's own entry, which re-exports sixty languages
 * as members of one object that no bundler can take apart. They were a fifth of the Worker.
 */
import * as z from './workers-zod-parts.ts'

export * from './workers-zod-parts.ts'
export { z, z as default }
