import type { Environment } from './environments.ts'

/** Under which the sweep publishes; `METRIC_NAMESPACE` of the gateway. */
export function metricNamespaceOf({ name }: Pick<Environment, 'name'>): string {
  return `Glyphpress/${name}`
}
