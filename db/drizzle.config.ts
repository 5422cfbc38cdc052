import { defineConfig } from 'drizzle-kit'

// drizzle-kit reads its configuration from a default export.
export default defineConfig({
  dialect: 'postgresql',
  schema: './db/schema/*.ts',
  out: './db/migrations',
})
