import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

export type LifecycleState =
  'Pending:Wait' | 'InService' | 'Terminating:Wait' | 'Terminating:Proceed' | 'Terminated'

export interface ScalingGroupServer {
  url: string
  /** Of the one machine that there is. */
  readonly instance: { state: LifecycleState; isProtected: boolean }
  /** Names of the calls that were let through, in order. */
  readonly calls: string[]
  /** The next calls are throttled. */
  throttle(count: number): void
  close(): Promise<void>
}

/** Which state a hook holds a machine in, and which follows. */
const HOOKS: Record<string, [held: LifecycleState, next: LifecycleState] | undefined> = {
  ready: ['Pending:Wait', 'InService'],
  leave: ['Terminating:Wait', 'Terminating:Proceed'],
}

/**
 * EC2 Auto Scaling with one machine in one group, by its query protocol (2011-01-01): hooks that are held and completed,
 * and protection, with the errors that AWS documents for them.
 */
export async function startScalingGroupServer(of: {
  groupName: string
  instanceId: string
}): Promise<ScalingGroupServer> {
  const instance: ScalingGroupServer['instance'] = { state: 'Pending:Wait', isProtected: true }
  const calls: string[] = []
  let throttled = 0
  const answer = (call: URLSearchParams): string | { code: string; message: string } => {
    const invalid = (message: string) => ({ code: 'ValidationError', message })
    if (call.get('AutoScalingGroupName') !== of.groupName) return invalid('no such group')
    if (call.get('Action') === 'CompleteLifecycleAction') {
      const hook = HOOKS[call.get('LifecycleHookName') ?? '']
      const isOurs = call.get('InstanceId') === of.instanceId
      if (!isOurs || hook?.[0] !== instance.state) {
        return invalid(
          `No active Lifecycle Action found with instance ID ${call.get('InstanceId')}`,
        )
      }
      instance.state = call.get('LifecycleActionResult') === 'CONTINUE' ? hook[1] : 'Terminated'
      return 'CompleteLifecycleAction'
    }
    if (call.get('Action') === 'SetInstanceProtection') {
      if (call.get('InstanceIds.member.1') !== of.instanceId) return invalid('no such instance')
      if (instance.state !== 'InService') return invalid(`The instance is not in InService`)
      instance.isProtected = call.get('ProtectedFromScaleIn') === 'true'
      return 'SetInstanceProtection'
    }
    return { code: 'InvalidAction', message: 'nothing else is known here' }
  }
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      response.setHeader('content-type', 'text/xml')
      const said =
        throttled-- > 0
          ? { code: 'Throttling', message: 'Rate exceeded' }
          : answer(new URLSearchParams(Buffer.concat(chunks).toString()))
      if (typeof said === 'string') {
        calls.push(said)
        response.end(`<${said}Response ${XMLNS}><${said}Result/>${METADATA}</${said}Response>`)
        return
      }
      const error = `<Error><Type>Sender</Type><Code>${said.code}</Code><Message>${said.message}</Message></Error>`
      response.writeHead(400).end(`<ErrorResponse ${XMLNS}>${error}</ErrorResponse>`)
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    instance,
    calls,
    throttle: (count) => void (throttled = count),
    async close() {
      server.closeAllConnections()
      server.close()
      await once(server, 'close')
    },
  }
}

const XMLNS = 'xmlns="http://autoscaling.amazonaws.com/doc/2011-01-01/"'
const METADATA = '<ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata>'
