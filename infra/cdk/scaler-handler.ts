import { AutoScalingClient } from '@aws-sdk/client-auto-scaling'
import { CloudWatchClient } from '@aws-sdk/client-cloudwatch'
import { readScalerInput } from './env.ts'
import { scaleGroup } from './scaler.ts'

/** Both answer within a second; the function has half a minute. */
const MAX_ATTEMPTS = 3
const clients = {
  group: new AutoScalingClient({ maxAttempts: MAX_ATTEMPTS }),
  metrics: new CloudWatchClient({ maxAttempts: MAX_ATTEMPTS }),
}

/** What the rule calls every minute. */
export async function handler(): Promise<void> {
  const { before, desired, reason } = await scaleGroup(readScalerInput(), clients, new Date())
  console.log(JSON.stringify({ level: 'info', event: 'scaled', before, desired, reason }))
}
