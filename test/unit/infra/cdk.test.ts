import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { App } from 'aws-cdk-lib'
import { Match, Template } from 'aws-cdk-lib/assertions'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { FLEET_METRICS } from '../../../db/fleet-metrics.ts'
import { MAX_RECEIVES, VISIBILITY_SECONDS } from '../../../gpu-worker/settings.ts'
import { createStacks } from '../../../infra/cdk/app.ts'
import { costTable, floorHours, idleCost } from '../../../infra/cdk/cost.ts'
import { ENVIRONMENTS } from '../../../infra/cdk/environments.ts'
import { CUDA_MAJOR, NODE_VERSION, imageComponent } from '../../../infra/cdk/image-recipe.ts'
import { BACKLOG_TARGET_SECONDS } from '../../../infra/fleet/scaling-policy.ts'

const ROOT = resolve(import.meta.dirname, '../../..')
type Name = keyof ReturnType<typeof createStacks>
interface Statement {
  Action: string | string[]
  Effect: string
  Resource: unknown
  Condition?: unknown
  Principal?: unknown
}
interface Resource {
  Type: string
  DeletionPolicy?: string
  Properties: Record<string, unknown>
}

let outdir: string
/** Templates by environment and stack. */
const templates = new Map<string, Record<Name, Template>>()
let manifest: { missing?: unknown[] }

beforeAll(() => {
  outdir = mkdtempSync(join(tmpdir(), 'glyphpress-cdk-'))
  const app = new App({ analyticsReporting: false, outdir })
  const made = ENVIRONMENTS.map(
    (environment) => [environment, createStacks(app, environment)] as const,
  )
  for (const [environment, stacks] of made) {
    templates.set(
      environment.name,
      Object.fromEntries(
        Object.entries(stacks).map(([name, stack]) => [name, Template.fromStack(stack)]),
      ) as Record<Name, Template>,
    )
  }
  app.synth()
  manifest = JSON.parse(readFileSync(join(outdir, 'manifest.json'), 'utf8')) as typeof manifest
}, 120_000)
afterAll(() => rmSync(outdir, { recursive: true, force: true }))

const of = (name: Name, environment = 'production') => {
  const found = templates.get(environment)?.[name]
  if (!found) throw new Error(`no ${name} of ${environment}`)
  return found
}
const resourcesOf = (template: Template, type: string): [string, Resource][] =>
  Object.entries(template.findResources(type) as Record<string, Resource>)
const statementsOf = (template: Template, type = 'AWS::IAM::Policy'): Statement[] =>
  resourcesOf(template, type).flatMap(
    ([, { Properties }]) => (Properties['PolicyDocument'] as { Statement: Statement[] }).Statement,
  )
const actionsOf = (statements: Statement[]) => statements.flatMap(({ Action }) => Action)
const policiesOf = (name: Name, logicalId: RegExp) =>
  resourcesOf(of(name), 'AWS::IAM::Policy')
    .filter(([id]) => logicalId.test(id))
    .flatMap(
      ([, { Properties }]) =>
        (Properties['PolicyDocument'] as { Statement: Statement[] }).Statement,
    )

describe.each(ENVIRONMENTS.map(({ name }) => name))('every stack of %s', (environment) => {
  const each = () => Object.values(templates.get(environment) ?? {})

  test('is synthesised without asking anybody anything', () => {
    expect(manifest.missing ?? []).toEqual([])
  })

  test('opens nothing to the internet: no bucket, no database, no port', () => {
    for (const template of each()) {
      for (const [id, { Properties }] of resourcesOf(template, 'AWS::S3::Bucket')) {
        expect([id, Properties['PublicAccessBlockConfiguration']]).toEqual([
          id,
          {
            BlockPublicAcls: true,
            BlockPublicPolicy: true,
            IgnorePublicAcls: true,
            RestrictPublicBuckets: true,
          },
        ])
      }
      for (const [, { Properties }] of resourcesOf(template, 'AWS::RDS::DBInstance')) {
        expect(Properties['PubliclyAccessible']).not.toBe(true)
      }
      for (const [, { Properties }] of resourcesOf(template, 'AWS::EC2::SecurityGroup')) {
        expect(Properties['SecurityGroupIngress']).toBeUndefined()
      }
      for (const [, { Properties }] of resourcesOf(template, 'AWS::EC2::SecurityGroupIngress')) {
        expect(Properties['CidrIp']).toBeUndefined()
        expect(Properties['SourceSecurityGroupId']).toBeDefined()
      }
      expect(JSON.stringify(template.toJSON())).not.toContain('KeyName')
    }
  })

  test('encrypts what lies and what travels', () => {
    for (const template of each()) {
      for (const [, { Properties }] of resourcesOf(template, 'AWS::S3::Bucket'))
        expect(Properties['BucketEncryption']).toBeDefined()
      for (const [, { Properties }] of resourcesOf(template, 'AWS::SQS::Queue'))
        expect(Properties['SqsManagedSseEnabled']).toBe(true)
      for (const [, { Properties }] of resourcesOf(template, 'AWS::RDS::DBCluster'))
        expect(Properties['StorageEncrypted']).toBe(true)
      for (const [, { Properties }] of resourcesOf(template, 'AWS::SNS::Topic'))
        expect(Properties['KmsMasterKeyId']).toBeDefined()
      const volumes = JSON.stringify([
        ...resourcesOf(template, 'AWS::EC2::LaunchTemplate'),
        ...resourcesOf(template, 'AWS::ImageBuilder::ImageRecipe'),
      ])
      expect(volumes).not.toContain('"Encrypted":false')
      expect((volumes.match(/"DeviceName"/g) ?? []).length).toBe(
        (volumes.match(/"Encrypted":true/g) ?? []).length,
      )
    }
    const denied = (name: Name, type: string) =>
      statementsOf(of(name, environment), type).filter(
        ({ Effect, Condition }) =>
          Effect === 'Deny' && JSON.stringify(Condition).includes('aws:SecureTransport'),
      ).length
    expect(denied('queue', 'AWS::SQS::QueuePolicy')).toBe(3)
    expect(denied('data', 'AWS::S3::BucketPolicy')).toBe(2)
    of('data', environment).hasResourceProperties('AWS::RDS::DBClusterParameterGroup', {
      Parameters: { 'rds.force_ssl': '1' },
    })
  })

  test('gives no metadata to whoever has no token, and none to a second hop', () => {
    for (const template of each()) {
      for (const [, { Properties }] of resourcesOf(template, 'AWS::EC2::LaunchTemplate')) {
        expect(Properties['LaunchTemplateData']).toMatchObject({
          MetadataOptions: { HttpTokens: 'required', HttpPutResponseHopLimit: 1 },
        })
      }
    }
    of('image', environment).hasResourceProperties(
      'AWS::ImageBuilder::InfrastructureConfiguration',
      { InstanceMetadataOptions: { HttpTokens: 'required', HttpPutResponseHopLimit: 1 } },
    )
  })

  test('grants no wildcard action, and a wildcard resource only where none can be named', () => {
    const UNNAMED = new Set([
      'autoscaling:DescribeAutoScalingGroups',
      'autoscaling:DescribeScalingActivities',
      'cloudwatch:GetMetricData',
      'cloudwatch:PutMetricData',
    ])
    for (const template of each()) {
      for (const { Action, Resource } of statementsOf(template)) {
        const actions = [Action].flat()
        for (const action of actions) expect(action).not.toContain('*')
        if (Resource === '*') for (const action of actions) expect(UNNAMED).toContain(action)
      }
    }
  })
})

describe('who may do what', () => {
  test('the gateway sends to the two queues, and reads, deletes and takes over nothing of them', () => {
    const statements = policiesOf('fleet', /^Gateway/)
    const queue = statements.filter(({ Action }) =>
      [Action].flat().some((a) => a.startsWith('sqs:')),
    )
    expect(actionsOf(queue)).toEqual(['sqs:SendMessage'])
    expect([queue[0]?.Resource].flat()).toHaveLength(2)
    expect(JSON.stringify(queue)).not.toContain('Dead')
  })

  test('the gateway writes inputs and no picture, and publishes under its own name alone', () => {
    const statements = policiesOf('fleet', /^Gateway/)
    const put = statements.find(({ Action }) => [Action].flat().includes('s3:PutObject'))
    expect(JSON.stringify(put?.Resource)).toContain('/inputs/*')
    expect(JSON.stringify(put?.Resource)).not.toContain('/images/*')
    const publish = statements.find(({ Action }) => Action === 'cloudwatch:PutMetricData')
    expect(publish?.Condition).toEqual({
      StringEquals: { 'cloudwatch:namespace': 'Glyphpress/production' },
    })
    expect(actionsOf(statements).toSorted()).toEqual([
      'cloudwatch:PutMetricData',
      's3:DeleteObject',
      's3:DeleteObject',
      's3:GetObject',
      's3:ListBucket',
      's3:PutObject',
      'sqs:SendMessage',
    ])
  })

  test('a worker sends no message, and speaks of its own group alone', () => {
    const statements = policiesOf('fleet', /^Worker/)
    expect(actionsOf(statements)).not.toContain('sqs:SendMessage')
    const group = statements.filter(({ Action }) => JSON.stringify(Action).includes('autoscaling:'))
    expect(group).toHaveLength(1)
    expect(JSON.stringify(group[0]?.Resource)).toContain(
      'autoScalingGroupName/glyphpress-production-workers',
    )
  })

  test('the scaler changes the number of its own group and nothing else', () => {
    const changing = actionsOf(policiesOf('fleet', /^Scaler/)).filter(
      (action) => !/:(Describe|Get)/.test(action),
    )
    expect(changing).toEqual(['autoscaling:SetDesiredCapacity'])
  })
})

describe('the queues', () => {
  test('agree with the worker on visibility and receives, and give up into one that is watched', () => {
    for (const name of ['jobs-standard', 'jobs-batch']) {
      of('queue').hasResourceProperties('AWS::SQS::Queue', {
        QueueName: `glyphpress-production-${name}`,
        VisibilityTimeout: VISIBILITY_SECONDS,
        RedrivePolicy: { maxReceiveCount: MAX_RECEIVES },
        FifoQueue: Match.absent(),
      })
    }
    of('watch').hasResourceProperties('AWS::CloudWatch::Alarm', {
      MetricName: 'ApproximateNumberOfMessagesVisible',
      Threshold: 0,
      AlarmActions: [Match.anyValue()],
    })
  })
})

describe('the fleet', () => {
  const group = () => resourcesOf(of('fleet'), 'AWS::AutoScaling::AutoScalingGroup')[0]?.[1]

  test('takes an H100 first and the next best card where there is none, on demand below spot', () => {
    expect(group()?.Properties['MixedInstancesPolicy']).toMatchObject({
      InstancesDistribution: {
        OnDemandAllocationStrategy: 'prioritized',
        OnDemandBaseCapacity: 1,
        OnDemandPercentageAboveBaseCapacity: 30,
        SpotAllocationStrategy: 'price-capacity-optimized',
      },
      LaunchTemplate: {
        Overrides: [
          { InstanceType: 'p5.4xlarge' },
          { InstanceType: 'g6e.8xlarge' },
          { InstanceType: 'g6e.4xlarge' },
        ],
      },
    })
  })

  test('protects who works, leaves through hooks, and sets no number that a deploy would reset', () => {
    expect(group()?.Properties).toMatchObject({
      NewInstancesProtectedFromScaleIn: true,
      CapacityRebalance: true,
      MinSize: '0',
      MaxSize: '16',
    })
    expect(group()?.Properties['DesiredCapacity']).toBeUndefined()
    of('fleet').hasResourceProperties('AWS::AutoScaling::LifecycleHook', {
      LifecycleHookName: 'ready',
      LifecycleTransition: 'autoscaling:EC2_INSTANCE_LAUNCHING',
      DefaultResult: 'ABANDON',
      HeartbeatTimeout: 900,
    })
    of('fleet').hasResourceProperties('AWS::AutoScaling::LifecycleHook', {
      LifecycleHookName: 'leave',
      LifecycleTransition: 'autoscaling:EC2_INSTANCE_TERMINATING',
      DefaultResult: 'CONTINUE',
      HeartbeatTimeout: 318,
    })
  })

  test('is scaled every minute by the policy with the numbers that were simulated', () => {
    const [, scaler] = resourcesOf(of('fleet'), 'AWS::Lambda::Function')[0]!
    const { Variables } = scaler.Properties['Environment'] as {
      Variables: { SCALER_INPUT: string }
    }
    expect(JSON.parse(Variables.SCALER_INPUT)).toMatchObject({
      groupName: 'glyphpress-production-workers',
      namespace: 'Glyphpress/production',
      settings: { maxGpus: 16, costCapPerHour: 112, backlogTargetSeconds: BACKLOG_TARGET_SECONDS },
    })
    of('fleet').hasResourceProperties('AWS::Events::Rule', {
      ScheduleExpression: 'rate(1 minute)',
    })
  })

  test('starts a worker with secrets that are in no template', () => {
    const text = JSON.stringify(of('fleet').toJSON())
    expect(text).toContain('secretsmanager get-secret-value')
    expect(text).not.toMatch(/postgres:\/\/|DATABASE_URL=|POKE_SECRET=/)
  })

  test('its image has the Node of package.json and the card provider with every library that it wants', () => {
    const pinned = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
      devDependencies: { node: string }
    }
    expect(NODE_VERSION).toBe(pinned.devDependencies.node)
    const component = JSON.parse(imageComponent('s3://b/r.tar.gz')) as { phases: unknown[] }
    expect(component.phases).toHaveLength(2)
    expect(JSON.stringify(component)).toContain(`libcudnn9-cuda-${CUDA_MAJOR}`)
    expect(JSON.stringify(component)).toContain("grep 'not found'")
  })
})

describe('what must not be lost', () => {
  test('production survives a mistake: deletion protection, backups, kept buckets and keys', () => {
    of('data').hasResource('AWS::RDS::DBCluster', {
      DeletionPolicy: 'Snapshot',
      Properties: { DeletionProtection: true, BackupRetentionPeriod: 35, StorageEncrypted: true },
    })
    for (const [id, { DeletionPolicy }] of resourcesOf(of('data'), 'AWS::S3::Bucket'))
      expect([id, DeletionPolicy]).toEqual([id, 'Retain'])
    for (const [id, { DeletionPolicy }] of resourcesOf(of('data'), 'AWS::SecretsManager::Secret')) {
      // That of the database can be made anew.
      if (!id.includes('Database')) expect([id, DeletionPolicy]).toEqual([id, 'Retain'])
    }
    of('data').resourceCountIs('AWS::RDS::DBInstance', 2)
  })

  test('inputs of edits and broken uploads end by themselves', () => {
    of('data').hasResourceProperties('AWS::S3::Bucket', {
      LifecycleConfiguration: {
        Rules: Match.arrayWith([
          Match.objectLike({ Prefix: 'inputs/', ExpirationInDays: 3 }),
          Match.objectLike({ AbortIncompleteMultipartUpload: { DaysAfterInitiation: 1 } }),
        ]),
      },
    })
  })
})

describe('what is watched', () => {
  test('silence of the sweep is an alarm, and every alarm and half the budget reach the operator', () => {
    of('watch').hasResourceProperties('AWS::CloudWatch::Alarm', {
      Namespace: 'Glyphpress/production',
      MetricName: 'PromptJobs',
      TreatMissingData: 'breaching',
    })
    for (const [, { Properties }] of resourcesOf(of('watch'), 'AWS::CloudWatch::Alarm')) {
      expect(Properties['AlarmActions']).toHaveLength(1)
      const page = String(Properties['AlarmDescription']).replace('infra/runbooks.md: ', '')
      const pages = readFileSync(join(ROOT, 'infra/runbooks.md'), 'utf8').toLowerCase()
      expect(pages).toContain(`## ${page}`)
    }
    of('watch').hasResourceProperties('AWS::Budgets::Budget', {
      Budget: { BudgetLimit: { Amount: 25_000, Unit: 'USD' }, TimeUnit: 'MONTHLY' },
      NotificationsWithSubscribers: Match.arrayWith([
        Match.objectLike({ Notification: Match.objectLike({ Threshold: 50 }) }),
      ]),
    })
  })

  test('the dashboard shows each figure that the fleet is scaled by', () => {
    const text = JSON.stringify(of('watch').findResources('AWS::CloudWatch::Dashboard'))
    for (const name of FLEET_METRICS) expect(text).toContain(name)
  })
})

describe('what it costs', () => {
  test('the table of the deploy page is what the dated price list makes of the environments', () => {
    const page = readFileSync(join(ROOT, 'infra/deploy.md'), 'utf8')
    const squeeze = (text: string) => text.replace(/ +/g, ' ').replace(/-{3,}:?/g, '---')
    expect(squeeze(page)).toContain(squeeze(costTable(ENVIRONMENTS)))
  })

  test('a floor costs its hours of a month, also over midnight', () => {
    const floor = { days: [1], fromMinute: 22 * 60, toMinute: 2 * 60, gpus: 3 }
    expect(floorHours([floor])).toBeCloseTo((12 * 730) / 168)
    expect(idleCost(ENVIRONMENTS[0]!).at(-1)?.dollars).toBe(0)
  })
})
