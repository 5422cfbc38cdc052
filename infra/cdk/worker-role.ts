import { ArnFormat, Stack } from 'aws-cdk-lib'
import * as iam from 'aws-cdk-lib/aws-iam'
import type { Construct } from 'constructs'
import type { DataStack } from './data-stack.ts'
import type { QueueStack } from './queue-stack.ts'

/**
 * Whoever a worker is. It takes messages and sends none, writes pictures and lists none, reads weights and its own
 * secret, and may speak of the instances of its own group alone.
 */
export function createWorkerRole(
  scope: Construct,
  parts: { queue: QueueStack; data: DataStack; groupName: string },
): iam.Role {
  const { queue, data, groupName } = parts
  const stack = Stack.of(scope)
  const role = new iam.Role(scope, 'Worker', {
    assumedBy: new iam.ServicePrincipal('ec2.amazonaws.com'),
    // Sessions of an operator without any open port or key pair.
    managedPolicies: [iam.ManagedPolicy.fromAwsManagedPolicyName('AmazonSSMManagedInstanceCore')],
  })
  const allow = (actions: string[], resources: string[]) =>
    role.addToPolicy(new iam.PolicyStatement({ actions, resources }))
  allow(
    ['sqs:ReceiveMessage', 'sqs:DeleteMessage', 'sqs:ChangeMessageVisibility'],
    [queue.standard, queue.batch, queue.dead].map(({ queueArn }) => queueArn),
  )
  const { pictures, models } = data
  allow(['s3:PutObject', 's3:DeleteObject'], [pictures.arnForObjects('images/*')])
  allow(['s3:GetObject', 's3:DeleteObject'], [pictures.arnForObjects('inputs/*')])
  // Without it the store says 403 in place of 404 for an input that was removed.
  allow(['s3:ListBucket'], [pictures.bucketArn])
  allow(['s3:GetObject'], [models.arnForObjects('*')])
  allow(['s3:ListBucket'], [models.bucketArn])
  allow(['secretsmanager:GetSecretValue'], [data.workerSecret.secretArn])
  const group = stack.formatArn({
    service: 'autoscaling',
    resource: 'autoScalingGroup',
    resourceName: `*:autoScalingGroupName/${groupName}`,
    arnFormat: ArnFormat.COLON_RESOURCE_NAME,
  })
  allow(['autoscaling:CompleteLifecycleAction', 'autoscaling:SetInstanceProtection'], [group])
  return role
}
