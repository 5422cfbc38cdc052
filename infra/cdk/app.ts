import { App, Tags } from 'aws-cdk-lib'
import { DataStack } from './data-stack.ts'
import type { Environment } from './environments.ts'
import { FleetStack } from './fleet-stack.ts'
import { ImageStack } from './image-stack.ts'
import { NetworkStack } from './network-stack.ts'
import { QueueStack } from './queue-stack.ts'
import { TunnelStack } from './tunnel-stack.ts'
import { WatchStack } from './watch-stack.ts'

/**
 * All stacks of one environment. They name neither account nor region, so that synthesis asks nobody anything; both come
 * from the credentials of whoever deploys.
 */
export function createStacks(app: App, environment: Environment) {
  const id = (name: string) => `glyphpress-${environment.name}-${name}`
  const network = new NetworkStack(app, id('network'))
  const queue = new QueueStack(app, id('queue'), { environment })
  const data = new DataStack(app, id('data'), {
    environment,
    vpc: network.vpc,
    clients: network.clients,
  })
  const tunnel = new TunnelStack(app, id('tunnel'), { network })
  const image = new ImageStack(app, id('image'), { environment, network, data })
  const fleet = new FleetStack(app, id('fleet'), { environment, network, queue, data })
  const watch = new WatchStack(app, id('watch'), { environment, queue, data, fleet })
  const stacks = { network, queue, data, tunnel, image, fleet, watch }
  for (const stack of Object.values(stacks)) {
    Tags.of(stack).add('glyphpress', environment.name)
  }
  return stacks
}

/** @param outdir where the templates go */
export function createCdkApp(environments: readonly Environment[], outdir: string): App {
  const app = new App({ analyticsReporting: false, outdir })
  for (const environment of environments) createStacks(app, environment)
  return app
}
