import { CfnOutput, Duration, Stack } from 'aws-cdk-lib'
import * as sqs from 'aws-cdk-lib/aws-sqs'
import type { Construct } from 'constructs'
import { MAX_RECEIVES, VISIBILITY_SECONDS } from '../../gpu-worker/settings.ts'
import type { Environment } from './environments.ts'

/** A letter waits for its reader through the longest weekend. */
const DEAD_LETTER_DAYS = 14
/** A message for a job that may take a day, and four more; the sweep writes lost ones anew. */
const RETENTION_DAYS = 5

/**
 * The doorbells: one queue for jobs that somebody waits for, which workers ask first, and one for those that may take a
 * day. Both are standard queues that serve organisations fairly by the message group that the gateway sets.
 */
export class QueueStack extends Stack {
  readonly standard: sqs.Queue
  readonly batch: sqs.Queue
  readonly dead: sqs.Queue

  constructor(scope: Construct, id: string, { environment }: { environment: Environment }) {
    super(scope, id)
    const named = (name: string) => `glyphpress-${environment.name}-${name}`
    this.dead = new sqs.Queue(this, 'Dead', {
      queueName: named('jobs-dead'),
      encryption: sqs.QueueEncryption.SQS_MANAGED,
      enforceSSL: true,
      retentionPeriod: Duration.days(DEAD_LETTER_DAYS),
    })
    const create = (id: string, name: string) =>
      new sqs.Queue(this, id, {
        queueName: named(name),
        encryption: sqs.QueueEncryption.SQS_MANAGED,
        enforceSSL: true,
        visibilityTimeout: Duration.seconds(VISIBILITY_SECONDS),
        retentionPeriod: Duration.days(RETENTION_DAYS),
        deadLetterQueue: { queue: this.dead, maxReceiveCount: MAX_RECEIVES },
      })
    this.standard = create('Standard', 'jobs-standard')
    this.batch = create('Batch', 'jobs-batch')
    new CfnOutput(this, 'SqsQueueUrl', { value: this.standard.queueUrl })
    new CfnOutput(this, 'SqsBatchQueueUrl', { value: this.batch.queueUrl })
    new CfnOutput(this, 'SqsDlqUrl', { value: this.dead.queueUrl })
  }
}
