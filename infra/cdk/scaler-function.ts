import { mkdtempSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Duration, Stack } from 'aws-cdk-lib'
import * as events from 'aws-cdk-lib/aws-events'
import * as targets from 'aws-cdk-lib/aws-events-targets'
import * as iam from 'aws-cdk-lib/aws-iam'
import * as lambda from 'aws-cdk-lib/aws-lambda'
import * as logs from 'aws-cdk-lib/aws-logs'
import type { Construct } from 'constructs'
import { buildSync } from 'esbuild'
import type { ScalerInput } from './scaler.ts'

/** The policy as a function that runs every minute; it has the rights of its own group and no others that change. */
export function createScaler(
  scope: Construct,
  input: ScalerInput & { groupArn: string },
): lambda.Function {
  const { groupArn, ...told } = input
  const scaler = new lambda.Function(scope, 'Scaler', {
    runtime: lambda.Runtime.NODEJS_22_X,
    architecture: lambda.Architecture.ARM_64,
    handler: 'index.handler',
    code: lambda.Code.fromAsset(bundle()),
    timeout: Duration.seconds(30),
    memorySize: 256,
    // Two at once would only set the same number twice, but one is enough.
    reservedConcurrentExecutions: 1,
    retryAttempts: 0,
    environment: { SCALER_INPUT: Stack.of(scope).toJsonString(told) },
    logGroup: new logs.LogGroup(scope, 'ScalerLog', { retention: logs.RetentionDays.ONE_MONTH }),
  })
  const allow = (actions: string[], resources: string[]) =>
    scaler.addToRolePolicy(new iam.PolicyStatement({ actions, resources }))
  allow(['autoscaling:SetDesiredCapacity'], [groupArn])
  // These read, and know no resources.
  allow(
    [
      'autoscaling:DescribeAutoScalingGroups',
      'autoscaling:DescribeScalingActivities',
      'cloudwatch:GetMetricData',
    ],
    ['*'],
  )
  new events.Rule(scope, 'EveryMinute', {
    schedule: events.Schedule.rate(Duration.minutes(1)),
    targets: [new targets.LambdaFunction(scaler, { retryAttempts: 0 })],
  })
  return scaler
}

/** One file, without the SDK, which the platform has. */
function bundle(): string {
  const folder = mkdtempSync(join(tmpdir(), 'glyphpress-scaler-'))
  buildSync({
    entryPoints: [resolve(import.meta.dirname, 'scaler-handler.ts')],
    outfile: join(folder, 'index.mjs'),
    bundle: true,
    platform: 'node',
    format: 'esm',
    target: 'node22',
    external: ['@aws-sdk/*'],
    logLevel: 'silent',
  })
  return folder
}
