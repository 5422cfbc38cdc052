import { z } from 'zod'
import type { ScalerInput } from './scaler.ts'

const input = z.object({
  groupName: z.string(),
  namespace: z.string(),
  settings: z.object({
    minGpus: z.number(),
    maxGpus: z.number(),
    floors: z.array(
      z.object({
        days: z.array(z.number()),
        fromMinute: z.number(),
        toMinute: z.number(),
        gpus: z.number(),
      }),
    ),
    costCapPerHour: z.number(),
    pricePerGpuHour: z.number(),
    coldStartSeconds: z.number(),
    backlogTargetSeconds: z.number(),
    promisedWaitSeconds: z.number(),
  }),
})

/** What the stack wrote into the function's environment. */
export function readScalerInput(): ScalerInput {
  return input.parse(JSON.parse(process.env.SCALER_INPUT ?? 'null'))
}
