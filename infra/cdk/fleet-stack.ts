import { ArnFormat, CfnOutput, Duration, Stack } from 'aws-cdk-lib'
import * as autoscaling from 'aws-cdk-lib/aws-autoscaling'
import * as ec2 from 'aws-cdk-lib/aws-ec2'
import type * as lambda from 'aws-cdk-lib/aws-lambda'
import type { Construct } from 'constructs'
import {
  BACKLOG_TARGET_SECONDS,
  COLD_START_SECONDS,
  PROMISED_WAIT_SECONDS,
} from '../fleet/scaling-policy.ts'
import type { DataStack } from './data-stack.ts'
import type { Environment } from './environments.ts'
import { createGatewayUser } from './gateway-user.ts'
import { imageParameterOf } from './image-stack.ts'
import type { NetworkStack } from './network-stack.ts'
import { metricNamespaceOf } from './names.ts'
import { HOURLY_DOLLARS } from './prices.ts'
import type { QueueStack } from './queue-stack.ts'
import { createScaler } from './scaler-function.ts'
import { LAUNCH_TIMEOUT_SECONDS, LEAVE_TIMEOUT_SECONDS, workerUserData } from './user-data.ts'
import { createWorkerRole } from './worker-role.ts'

export interface FleetStackProps {
  readonly environment: Environment
  readonly network: NetworkStack
  readonly queue: QueueStack
  readonly data: DataStack
}

/** Driver, CUDA, Node and the worker; weights are on the instance's own disk. */
const ROOT_GIB = 60

/** The GPU machines, who they are, and how many of them there are. */
export class FleetStack extends Stack {
  readonly groupName: string
  readonly scaler: lambda.Function

  constructor(scope: Construct, id: string, props: FleetStackProps) {
    super(scope, id)
    const { environment, queue, data } = props
    this.groupName = `glyphpress-${environment.name}-workers`
    const namespace = metricNamespaceOf(environment)
    this.createGroup(props)
    this.scaler = createScaler(this, {
      groupName: this.groupName,
      namespace,
      groupArn: this.formatArn({
        service: 'autoscaling',
        resource: 'autoScalingGroup',
        resourceName: `*:autoScalingGroupName/${this.groupName}`,
        arnFormat: ArnFormat.COLON_RESOURCE_NAME,
      }),
      settings: scalingSettingsOf(environment),
    })
    const user = createGatewayUser(this, {
      queues: [queue.standard, queue.batch],
      pictures: data.pictures,
      metricNamespace: namespace,
    })
    new CfnOutput(this, 'GatewayUser', { value: user.userName })
  }

  private createGroup(props: FleetStackProps): void {
    const { environment, network } = props
    const { fleet } = environment
    const template = this.createTemplate(props)
    const group = new autoscaling.AutoScalingGroup(this, 'Workers', {
      autoScalingGroupName: this.groupName,
      vpc: network.vpc,
      vpcSubnets: { subnetType: ec2.SubnetType.PUBLIC },
      minCapacity: fleet.minGpus,
      maxCapacity: fleet.maxGpus,
      mixedInstancesPolicy: {
        launchTemplate: template,
        launchTemplateOverrides: fleet.instanceTypes.map((name) => ({
          instanceType: new ec2.InstanceType(name),
        })),
        instancesDistribution: {
          onDemandBaseCapacity: fleet.onDemandBase,
          onDemandPercentageAboveBaseCapacity: fleet.onDemandPercent,
          // In the order of the list, so that the better card is taken where it can be had.
          onDemandAllocationStrategy: autoscaling.OnDemandAllocationStrategy.PRIORITIZED,
          spotAllocationStrategy: autoscaling.SpotAllocationStrategy.PRICE_CAPACITY_OPTIMIZED,
        },
      },
      // A worker takes the protection off when it has been idle for a while, and puts it on with its next job.
      newInstancesProtectedFromScaleIn: true,
      capacityRebalance: true,
      groupMetrics: [autoscaling.GroupMetrics.all()],
      healthChecks: autoscaling.HealthChecks.ec2({
        gracePeriod: Duration.seconds(LAUNCH_TIMEOUT_SECONDS),
      }),
      terminationPolicies: [autoscaling.TerminationPolicy.CLOSEST_TO_NEXT_INSTANCE_HOUR],
      updatePolicy: autoscaling.UpdatePolicy.rollingUpdate({ maxBatchSize: 1 }),
    })
    // In service is who has drawn a picture.
    group.addLifecycleHook('Ready', {
      lifecycleHookName: 'ready',
      lifecycleTransition: autoscaling.LifecycleTransition.INSTANCE_LAUNCHING,
      heartbeatTimeout: Duration.seconds(LAUNCH_TIMEOUT_SECONDS),
      defaultResult: autoscaling.DefaultResult.ABANDON,
    })
    group.addLifecycleHook('Leave', {
      lifecycleHookName: 'leave',
      lifecycleTransition: autoscaling.LifecycleTransition.INSTANCE_TERMINATING,
      heartbeatTimeout: Duration.seconds(LEAVE_TIMEOUT_SECONDS),
      defaultResult: autoscaling.DefaultResult.CONTINUE,
    })
  }

  private createTemplate({ environment, network, queue, data }: FleetStackProps) {
    const userData = ec2.UserData.custom(
      workerUserData({
        region: this.region,
        modelBucket: data.models.bucketName,
        modelPrefix: 'GLM-Image',
        secretArn: data.workerSecret.secretArn,
        env: {
          AWS_REGION: this.region,
          SQS_QUEUE_URL: queue.standard.queueUrl,
          SQS_BATCH_QUEUE_URL: queue.batch.queueUrl,
          SQS_DLQ_URL: queue.dead.queueUrl,
          S3_BUCKET: data.pictures.bucketName,
          GROUP_NAME: this.groupName,
        },
      }),
    )
    return new ec2.LaunchTemplate(this, 'Template', {
      machineImage: ec2.MachineImage.resolveSsmParameterAtLaunch(imageParameterOf(environment)),
      userData,
      role: createWorkerRole(this, { queue, data, groupName: this.groupName }),
      securityGroup: network.clients,
      associatePublicIpAddress: true,
      requireImdsv2: true,
      // Nothing on the machine that stands behind another hop, such as a container, may be the machine.
      httpPutResponseHopLimit: 1,
      instanceMetadataTags: false,
      detailedMonitoring: true,
      blockDevices: [
        {
          deviceName: '/dev/xvda',
          volume: ec2.BlockDeviceVolume.ebs(ROOT_GIB, {
            encrypted: true,
            volumeType: ec2.EbsDeviceVolumeType.GP3,
            deleteOnTermination: true,
          }),
        },
      ],
    })
  }
}

/** The simulated numbers with the environment's limits. */
export function scalingSettingsOf({ fleet }: Environment) {
  const prices = fleet.instanceTypes.map((name) => HOURLY_DOLLARS[name])
  return {
    minGpus: fleet.minGpus,
    maxGpus: fleet.maxGpus,
    floors: fleet.floors,
    costCapPerHour: fleet.costCapPerHour,
    pricePerGpuHour: Math.max(...prices),
    coldStartSeconds: COLD_START_SECONDS,
    backlogTargetSeconds: BACKLOG_TARGET_SECONDS,
    promisedWaitSeconds: PROMISED_WAIT_SECONDS,
  }
}
