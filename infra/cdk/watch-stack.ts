import { Duration, Stack } from 'aws-cdk-lib'
import * as budgets from 'aws-cdk-lib/aws-budgets'
import * as cloudwatch from 'aws-cdk-lib/aws-cloudwatch'
import { SnsAction } from 'aws-cdk-lib/aws-cloudwatch-actions'
import * as kms from 'aws-cdk-lib/aws-kms'
import * as iam from 'aws-cdk-lib/aws-iam'
import * as sns from 'aws-cdk-lib/aws-sns'
import { EmailSubscription } from 'aws-cdk-lib/aws-sns-subscriptions'
import type { Construct } from 'constructs'
import { FLEET_METRICS } from '../../db/fleet-metrics.ts'
import type { DataStack } from './data-stack.ts'
import type { Environment } from './environments.ts'
import type { FleetStack } from './fleet-stack.ts'
import { metricNamespaceOf } from './names.ts'
import type { QueueStack } from './queue-stack.ts'

export interface WatchStackProps {
  readonly environment: Environment
  readonly queue: QueueStack
  readonly data: DataStack
  readonly fleet: FleetStack
}

const MINUTE = Duration.minutes(1)
/** Five cold starts: a job that waited so long for its first worker is not waiting for a machine any more. */
const LONG_WAIT_SECONDS = 900
/** Of what the database may grow to. */
const DATABASE_SHARE = 0.9

/** What an operator looks at, and what calls one. Each alarm's text names its page in infra/runbooks.md. */
export class WatchStack extends Stack {
  private readonly topic: sns.Topic

  constructor(scope: Construct, id: string, props: WatchStackProps) {
    super(scope, id)
    const { environment, queue, data, fleet } = props
    this.topic = this.createTopic(environment)
    const own = (metricName: string) =>
      new cloudwatch.Metric({
        namespace: metricNamespaceOf(environment),
        metricName,
        statistic: 'Maximum',
        period: MINUTE,
      })
    const dead = queue.dead.metricApproximateNumberOfMessagesVisible({ period: MINUTE })
    const wait = own('OldestWaitSeconds')
    const acu = data.database.metricServerlessDatabaseCapacity({ period: MINUTE })
    this.alarm('DeadLetters', dead, { above: 0, minutes: 5, runbook: 'dead letters' })
    this.alarm('LongWait', wait, { above: LONG_WAIT_SECONDS, minutes: 5, runbook: 'stuck queue' })
    this.alarm('SweepSilent', own('PromptJobs'), {
      above: Infinity,
      minutes: 5,
      runbook: 'the sweep is silent',
    })
    this.alarm('ScalerFails', fleet.scaler.metricErrors({ period: MINUTE, statistic: 'Sum' }), {
      above: 0,
      minutes: 5,
      runbook: 'the sweep is silent',
    })
    this.alarm('DatabaseFull', acu, {
      above: environment.database.maxAcu * DATABASE_SHARE,
      minutes: 10,
      runbook: 'the database is full',
    })
    this.createDashboard(props, { own, dead, acu })
    this.createBudget(environment)
  }

  private createTopic(environment: Environment): sns.Topic {
    const key = new kms.Key(this, 'Key', { enableKeyRotation: true })
    key.grantEncryptDecrypt(new iam.ServicePrincipal('cloudwatch.amazonaws.com'))
    key.grantEncryptDecrypt(new iam.ServicePrincipal('budgets.amazonaws.com'))
    const topic = new sns.Topic(this, 'Operators', { masterKey: key, enforceSSL: true })
    topic.addSubscription(new EmailSubscription(environment.operatorEmail))
    topic.addToResourcePolicy(
      new iam.PolicyStatement({
        actions: ['sns:Publish'],
        principals: [new iam.ServicePrincipal('budgets.amazonaws.com')],
        resources: [topic.topicArn],
        conditions: { StringEquals: { 'aws:SourceAccount': this.account } },
      }),
    )
    return topic
  }

  /** @param rule.above Infinity: only silence is an alarm, and it is one for every such rule of ours */
  private alarm(
    id: string,
    metric: cloudwatch.IMetric,
    rule: { above: number; minutes: number; runbook: string },
  ): void {
    const isSilence = rule.above === Infinity
    const alarm = new cloudwatch.Alarm(this, id, {
      metric,
      alarmDescription: `infra/runbooks.md: ${rule.runbook}`,
      // No value is below nothing, so that only a missing one breaches.
      threshold: isSilence ? 0 : rule.above,
      comparisonOperator: isSilence
        ? cloudwatch.ComparisonOperator.LESS_THAN_THRESHOLD
        : cloudwatch.ComparisonOperator.GREATER_THAN_THRESHOLD,
      evaluationPeriods: rule.minutes,
      treatMissingData: isSilence
        ? cloudwatch.TreatMissingData.BREACHING
        : cloudwatch.TreatMissingData.NOT_BREACHING,
    })
    alarm.addAlarmAction(new SnsAction(this.topic))
    alarm.addOkAction(new SnsAction(this.topic))
  }

  private createDashboard(
    { environment, queue, fleet }: WatchStackProps,
    metrics: {
      own: (name: string) => cloudwatch.Metric
      dead: cloudwatch.IMetric
      acu: cloudwatch.IMetric
    },
  ): void {
    const graph = (title: string, left: cloudwatch.IMetric[]) =>
      new cloudwatch.GraphWidget({ title, left, width: 12 })
    const instances = (metricName: string) =>
      new cloudwatch.Metric({
        namespace: 'AWS/AutoScaling',
        metricName,
        dimensionsMap: { AutoScalingGroupName: fleet.groupName },
        period: MINUTE,
      })
    const queues = [queue.standard, queue.batch]
    new cloudwatch.Dashboard(this, 'Dashboard', {
      dashboardName: `glyphpress-${environment.name}`,
      widgets: [
        [
          graph('What waits', [metrics.own('PromptJobs'), metrics.own('PatientJobs')]),
          graph('Backlog, GPU-seconds', [
            metrics.own('PromptGpuSeconds'),
            metrics.own('PatientGpuSeconds'),
          ]),
        ],
        [
          graph('Longest wait for a first worker', [metrics.own('OldestWaitSeconds')]),
          graph('Machines', [
            instances('GroupInServiceInstances'),
            instances('GroupPendingInstances'),
            instances('GroupTerminatingInstances'),
            metrics.own(FLEET_METRICS[5]),
          ]),
        ],
        [
          graph('Messages', [
            ...queues.map((each) => each.metricApproximateNumberOfMessagesVisible()),
            ...queues.map((each) => each.metricApproximateNumberOfMessagesNotVisible()),
            metrics.dead,
          ]),
          graph('Database, capacity units', [metrics.acu]),
        ],
      ],
    })
  }

  private createBudget(environment: Environment): void {
    const subscribers = [{ subscriptionType: 'SNS', address: this.topic.topicArn }]
    const notify = (notificationType: string, threshold: number) => ({
      notification: { notificationType, threshold, comparisonOperator: 'GREATER_THAN' },
      subscribers,
    })
    new budgets.CfnBudget(this, 'Budget', {
      budget: {
        budgetName: `glyphpress-${environment.name}`,
        budgetType: 'COST',
        timeUnit: 'MONTHLY',
        budgetLimit: { amount: environment.monthlyBudgetDollars, unit: 'USD' },
      },
      notificationsWithSubscribers: [
        notify('ACTUAL', 50),
        notify('ACTUAL', 90),
        notify('FORECASTED', 100),
      ],
    })
  }
}
