import {
  AutoScalingClient,
  CreateAutoScalingGroupCommand,
  CreateLaunchConfigurationCommand,
  DescribeAutoScalingInstancesCommand,
} from '@aws-sdk/client-auto-scaling'
import { CreateBucketCommand, ListObjectsV2Command, S3Client } from '@aws-sdk/client-s3'
import { CreateQueueCommand, GetQueueAttributesCommand, SQSClient } from '@aws-sdk/client-sqs'
import { createHash } from 'node:crypto'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { openScalingGroup } from '../../gpu-worker/scaling-group.ts'
import { findFreePort } from '../../infra/local/postgres.ts'
import { ELASTICMQ } from '../servers/elasticmq.ts'
import { isAtHand, openForeign } from '../servers/foreign-server.ts'
import type { ForeignServer } from '../servers/foreign-server.ts'
import { MOTO } from '../servers/moto.ts'
import { createTestDatabase } from '../support/database.ts'
import type { TestDatabase } from '../support/database.ts'
import { TEST_PEPPER } from '../support/pepper.ts'
import { createTenant } from '../support/tenant.ts'
import { killAll, MODEL_DIR, spawnScript, until } from '../support/worker.ts'

// Whole processes beside servers that this project has not written.

const REGION = 'eu-central-1'
const CREDENTIALS = { accessKeyId: 'test', secretAccessKey: 'test' }
const isMotoHere = await isAtHand(MOTO, 'gateway, worker and scaling group')
const isElasticMqHere = await isAtHand(ELASTICMQ, 'gateway and worker')

let moto: ForeignServer | null = null
let elasticMq: ForeignServer | null = null
let database: TestDatabase
beforeAll(async () => {
  ;[moto, elasticMq] = await Promise.all([openForeign(MOTO), openForeign(ELASTICMQ)])
  database = await createTestDatabase()
})
afterAll(async () => {
  vi.unstubAllEnvs()
  await killAll()
  await moto?.stop()
  await elasticMq?.stop()
  await database.close()
})

async function createQueue(): Promise<string> {
  const endpoint = elasticMq?.endpoint ?? ''
  const client = new SQSClient({ endpoint, region: REGION, credentials: CREDENTIALS })
  const QueueName = `jobs-${process.pid}-${Date.now()}`
  const { QueueUrl = '' } = await client.send(new CreateQueueCommand({ QueueName }))
  client.destroy()
  return new URL(new URL(QueueUrl).pathname, endpoint).href
}

test.skipIf(!isMotoHere || !isElasticMqHere)(
  'a picture that is ordered, drawn, fetched and deleted, with ElasticMQ for the queue and moto for the bucket',
  { timeout: 120_000 },
  async () => {
    const [queueUrl, port] = [await createQueue(), await findFreePort()]
    const bucket = `whole-${process.pid}`
    const s3 = { endpoint: moto?.endpoint ?? '', region: REGION, credentials: CREDENTIALS }
    const bucketClient = new S3Client({ ...s3, forcePathStyle: true })
    await bucketClient.send(
      new CreateBucketCommand({
        Bucket: bucket,
        CreateBucketConfiguration: { LocationConstraint: REGION },
      }),
    )
    const shared = {
      DATABASE_URL: database.url,
      SQS_QUEUE_URL: queueUrl,
      SQS_ENDPOINT: elasticMq?.endpoint ?? '',
      S3_BUCKET: bucket,
      S3_ENDPOINT: s3.endpoint,
      AWS_REGION: REGION,
      AWS_ACCESS_KEY_ID: CREDENTIALS.accessKeyId,
      AWS_SECRET_ACCESS_KEY: CREDENTIALS.secretAccessKey,
    }
    const url = `http://127.0.0.1:${port}`
    const gateway = spawnScript('edge/node.ts', {
      env: { ...shared, KEY_PEPPER: TEST_PEPPER, PUBLIC_URL: url, PORT: String(port) },
    })
    const worker = spawnScript('gpu-worker/main.ts', {
      env: { ...shared, MODEL_DIR, THREADS: '1' },
    })
    for (const [part, word] of [
      [gateway, 'listening'],
      [worker, 'ready'],
    ] as const)
      await until(
        () => part.log.some(({ event }) => event === word),
        () => `${word}:\n${part.output()}`,
      )
    const { apiKey } = await createTenant(database.db)
    const headers = { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' }
    const ordered = await fetch(`${url}/v1/jobs`, {
      method: 'POST',
      headers,
      body: JSON.stringify({ model: 'glm-image', prompt: 'A sign', n: 2, size: '256x256' }),
    })
    const { id } = (await ordered.json()) as { id: string }
    const read = async () =>
      (await (await fetch(`${url}/v1/jobs/${id}`, { headers })).json()) as {
        state: string
        outputs: { url: string; sha256: string }[]
      }
    await until(
      async () => (await read()).state === 'succeeded',
      () => `the job:\n${worker.output()}`,
    )
    const { outputs } = await read()
    expect(outputs).toHaveLength(2)
    for (const image of outputs) {
      const bytes = new Uint8Array(await (await fetch(image.url)).arrayBuffer())
      expect(createHash('sha256').update(bytes).digest('hex')).toBe(image.sha256)
    }
    expect((await fetch(`${url}/v1/jobs/${id}`, { method: 'DELETE', headers })).ok).toBe(true)
    const { KeyCount } = await bucketClient.send(new ListObjectsV2Command({ Bucket: bucket }))
    expect(KeyCount).toBe(0)
    bucketClient.destroy()
    const sqs = new SQSClient({
      endpoint: shared.SQS_ENDPOINT,
      region: REGION,
      credentials: CREDENTIALS,
    })
    const left = await sqs.send(
      new GetQueueAttributesCommand({ QueueUrl: queueUrl, AttributeNames: ['All'] }),
    )
    expect(left.Attributes).toMatchObject({
      ApproximateNumberOfMessages: '0',
      ApproximateNumberOfMessagesNotVisible: '0',
    })
    sqs.destroy()
  },
)

test.skipIf(!isMotoHere)(
  'a machine is protected in its scaling group while it works, and a call that the group refuses ends nothing',
  async () => {
    const endpoint = moto?.endpoint ?? ''
    const client = new AutoScalingClient({ endpoint, region: REGION, credentials: CREDENTIALS })
    const name = `workers-${process.pid}`
    await client.send(
      new CreateLaunchConfigurationCommand({
        LaunchConfigurationName: name,
        ImageId: 'ami-12345678',
        InstanceType: 'p5.4xlarge',
      }),
    )
    await client.send(
      new CreateAutoScalingGroupCommand({
        AutoScalingGroupName: name,
        LaunchConfigurationName: name,
        AvailabilityZones: [`${REGION}a`],
        MinSize: 1,
        MaxSize: 2,
        DesiredCapacity: 1,
        NewInstancesProtectedFromScaleIn: true,
      }),
    )
    const describeIt = async () =>
      (await client.send(new DescribeAutoScalingInstancesCommand({}))).AutoScalingInstances?.[0]
    const instanceId = (await describeIt())?.InstanceId ?? ''
    const log: Record<string, unknown>[] = []
    // The instance's role, in the place where the worker looks for it.
    vi.stubEnv('AWS_ACCESS_KEY_ID', CREDENTIALS.accessKeyId)
    vi.stubEnv('AWS_SECRET_ACCESS_KEY', CREDENTIALS.secretAccessKey)
    const settings = { groupName: name, region: REGION, endpoint }
    const group = openScalingGroup({ ...settings, instanceId, log: (entry) => log.push(entry) })
    await group.setProtected(false)
    expect((await describeIt())?.ProtectedFromScaleIn).toBe(false)
    await group.setProtected(true)
    expect((await describeIt())?.ProtectedFromScaleIn).toBe(true)
    expect(log).toEqual([])
    const gone = { ...settings, groupName: 'another', instanceId }
    await openScalingGroup({ ...gone, log: (entry) => log.push(entry) }).setProtected(true)
    expect(log).toMatchObject([{ event: 'scaling_group_failed', call: 'protect' }])
    client.destroy()
  },
)
