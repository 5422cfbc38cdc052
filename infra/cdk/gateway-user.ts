import * as iam from 'aws-cdk-lib/aws-iam'
import type { Bucket } from 'aws-cdk-lib/aws-s3'
import type { Queue } from 'aws-cdk-lib/aws-sqs'
import type { Construct } from 'constructs'

/**
 * Whoever the gateway is on Cloudflare, where no role can be had. Of the queues it may send and nothing else: a stolen
 * key reads no message and deletes none. It reads and removes pictures, and keeps inputs; it never writes a picture.
 */
export function createGatewayUser(
  scope: Construct,
  parts: { queues: readonly Queue[]; pictures: Bucket; metricNamespace: string },
): iam.User {
  const user = new iam.User(scope, 'Gateway')
  const { pictures } = parts
  const allow = (
    actions: string[],
    resources: string[],
    conditions: Record<string, Record<string, string>> = {},
  ) => user.addToPolicy(new iam.PolicyStatement({ actions, resources, conditions }))
  allow(
    ['sqs:SendMessage'],
    parts.queues.map(({ queueArn }) => queueArn),
  )
  allow(['s3:GetObject', 's3:DeleteObject'], [pictures.arnForObjects('images/*')])
  allow(['s3:PutObject', 's3:DeleteObject'], [pictures.arnForObjects('inputs/*')])
  // Of the whole bucket: without it, or under a condition, the store answers 403 for a picture that is not there.
  allow(['s3:ListBucket'], [pictures.bucketArn])
  // This action knows no resource; the namespace is its only bound.
  allow(['cloudwatch:PutMetricData'], ['*'], {
    StringEquals: { 'cloudwatch:namespace': parts.metricNamespace },
  })
  return user
}
