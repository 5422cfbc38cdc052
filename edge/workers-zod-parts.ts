/** What a gateway needs of zod. Its English messages come with the schemas. */
export * from '../node_modules/zod/v4/classic/schemas.js'
export * from '../node_modules/zod/v4/classic/checks.js'
export * from '../node_modules/zod/v4/classic/errors.js'
export * from '../node_modules/zod/v4/classic/parse.js'
export * from '../node_modules/zod/v4/classic/compat.js'
export { globalRegistry, registry, NEVER, util } from '../node_modules/zod/v4/core/index.js'
export { toJSONSchema } from '../node_modules/zod/v4/core/json-schema-processors.js'
export * as coerce from '../node_modules/zod/v4/classic/coerce.js'
export * as iso from '../node_modules/zod/v4/classic/iso.js'
export {
  ZodISODate,
  ZodISODateTime,
  ZodISODuration,
  ZodISOTime,
} from '../node_modules/zod/v4/classic/iso.js'
