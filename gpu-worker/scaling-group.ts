import {
  AutoScalingClient,
  CompleteLifecycleActionCommand,
  SetInstanceProtectionCommand,
} from '@aws-sdk/client-auto-scaling'

/** What a worker tells the scaling group about its own machine. Nothing here throws: what fails is logged. */
export interface ScalingGroup {
  /** This machine has drawn a picture: it counts as in service. */
  completeLaunch(): Promise<void>
  /** It has nothing in hand any more and may go. */
  completeLeave(): Promise<void>
  setProtected(isProtected: boolean): Promise<void>
}

const TIMEOUT_MS = 10_000
/** Throttled when many speak at once; every one of these calls may be made again. */
const MAX_ATTEMPTS = 5

export function openScalingGroup(settings: {
  groupName: string
  instanceId: string
  region: string
  endpoint?: string
  log: (entry: Record<string, unknown>) => void
}): ScalingGroup {
  const { groupName, instanceId, log, region, endpoint } = settings
  const client = new AutoScalingClient({
    region,
    maxAttempts: MAX_ATTEMPTS,
    ...(endpoint === undefined ? {} : { endpoint }),
  })
  const said = async (call: string, work: (signal: AbortSignal) => Promise<unknown>) => {
    try {
      await work(AbortSignal.timeout(TIMEOUT_MS))
    } catch (error) {
      log({ level: 'warn', event: 'scaling_group_failed', call, error: String(error) })
    }
  }
  const complete = (hook: 'ready' | 'leave') =>
    said(hook, (abortSignal) =>
      client.send(
        new CompleteLifecycleActionCommand({
          AutoScalingGroupName: groupName,
          InstanceId: instanceId,
          LifecycleHookName: hook,
          LifecycleActionResult: 'CONTINUE',
        }),
        { abortSignal },
      ),
    )
  return {
    completeLaunch: () => complete('ready'),
    completeLeave: () => complete('leave'),
    setProtected: (ProtectedFromScaleIn) =>
      said('protect', (abortSignal) =>
        client.send(
          new SetInstanceProtectionCommand({
            AutoScalingGroupName: groupName,
            InstanceIds: [instanceId],
            ProtectedFromScaleIn,
          }),
          { abortSignal },
        ),
      ),
  }
}
