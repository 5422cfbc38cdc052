import type { SessionOptions } from './backend.ts'

/**
 * The runtime's own settings of a session, alike for both backends.
 *
 * On the CPU weights are not prepacked unless it is asked for: they stay mapped from the file, loading takes milliseconds, and the
 * arithmetic does not depend on a packed copy.
 */
export function configEntries({
  provider = 'cpu',
  foldWeights = true,
  isStrict = false,
  prepack = provider !== 'cpu',
}: SessionOptions): Record<string, string> {
  const isCard = provider !== 'cpu'
  return {
    // A model in memory has no folder; locations of weights are absolute paths without their first slash.
    'session.model_external_initializers_file_folder_path': '/',
    'session.disable_prepacking': prepack ? '0' : '1',
    'session.use_device_allocator_for_initializers': isCard ? '1' : '0',
    ...(isStrict && { 'session.disable_cpu_ep_fallback': '1' }),
    ...(!foldWeights && { 'optimization.disable_specified_optimizers': 'ConstantFolding' }),
  }
}
