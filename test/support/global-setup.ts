import type { TestProject } from 'vitest/node'
import { openTemplateDatabase } from './template-database.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    databaseUrl: string
    templateName: string
  }
}

/**
 * Starts one PostgreSQL for the run (or takes TEST_DATABASE_URL) and migrates a template database that
 * each test file clones.
 */
export default async function setup(project: TestProject) {
  const template = await openTemplateDatabase(process.env.TEST_DATABASE_URL)
  project.provide('databaseUrl', template.url)
  project.provide('templateName', template.templateName)
  return () => template.close()
}
