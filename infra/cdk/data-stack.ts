import { CfnOutput, Duration, RemovalPolicy, Stack } from 'aws-cdk-lib'
import type * as ec2 from 'aws-cdk-lib/aws-ec2'
import { SubnetType } from 'aws-cdk-lib/aws-ec2'
import * as rds from 'aws-cdk-lib/aws-rds'
import * as s3 from 'aws-cdk-lib/aws-s3'
import * as secrets from 'aws-cdk-lib/aws-secretsmanager'
import type { Construct } from 'constructs'
import { INPUT_LIFE_SECONDS } from '../../db/input-images.ts'
import type { Environment } from './environments.ts'

export interface DataStackProps {
  readonly environment: Environment
  readonly vpc: ec2.IVpc
  readonly clients: ec2.ISecurityGroup
}

const DAY_SECONDS = 86_400
const PEPPER_CHARACTERS = 48

/** What must not be lost: books, pictures, weights and secrets. */
export class DataStack extends Stack {
  readonly pictures: s3.Bucket
  readonly models: s3.Bucket
  readonly database: rds.DatabaseCluster
  readonly pepper: secrets.Secret
  /** What a worker reads at its start: the addresses that hold a secret. Filled by hand once, see infra/deploy.md. */
  readonly workerSecret: secrets.Secret

  constructor(scope: Construct, id: string, props: DataStackProps) {
    super(scope, id, { terminationProtection: props.environment.isProtected })
    const removalPolicy = props.environment.isProtected
      ? RemovalPolicy.RETAIN
      : RemovalPolicy.DESTROY
    this.pictures = this.createPictures(props, removalPolicy)
    this.models = new s3.Bucket(this, 'Models', { ...closed(), versioned: true, removalPolicy })
    this.database = this.createDatabase(props, removalPolicy)
    this.pepper = new secrets.Secret(this, 'Pepper', {
      description: 'KEY_PEPPER: keys, URLs and signatures are made under it',
      generateSecretString: { passwordLength: PEPPER_CHARACTERS, excludePunctuation: true },
      removalPolicy,
    })
    this.workerSecret = new secrets.Secret(this, 'Worker', {
      description: 'JSON of DATABASE_URL, GATEWAY_URL and POKE_SECRET for workers',
      removalPolicy,
    })
    new CfnOutput(this, 'S3Bucket', { value: this.pictures.bucketName })
    new CfnOutput(this, 'ModelBucket', { value: this.models.bucketName })
    new CfnOutput(this, 'DatabaseHost', { value: this.database.clusterEndpoint.hostname })
  }

  private createPictures({ environment }: DataStackProps, removalPolicy: RemovalPolicy): s3.Bucket {
    return new s3.Bucket(this, 'Pictures', {
      ...closed(),
      bucketName: `glyphpress-${environment.name}-pictures-${this.account}`,
      removalPolicy,
      lifecycleRules: [
        // The sweep removes them; this is for the day on which it does not.
        {
          id: 'inputs',
          prefix: 'inputs/',
          expiration: Duration.days(Math.ceil(INPUT_LIFE_SECONDS / DAY_SECONDS) + 1),
        },
        { id: 'parts', abortIncompleteMultipartUploadAfter: Duration.days(1) },
        // Most pictures are fetched once and soon.
        {
          id: 'cool',
          prefix: 'images/',
          transitions: [
            {
              storageClass: s3.StorageClass.INTELLIGENT_TIERING,
              transitionAfter: Duration.days(1),
            },
          ],
        },
      ],
    })
  }

  private createDatabase(props: DataStackProps, removalPolicy: RemovalPolicy): rds.DatabaseCluster {
    const { environment, vpc, clients } = props
    const { isProtected, database } = environment
    const engine = rds.DatabaseClusterEngine.auroraPostgres({
      version: rds.AuroraPostgresEngineVersion.of('17.5', '17'),
    })
    const cluster = new rds.DatabaseCluster(this, 'Database', {
      engine,
      vpc,
      vpcSubnets: { subnetType: SubnetType.PRIVATE_ISOLATED },
      defaultDatabaseName: 'glyphpress',
      credentials: rds.Credentials.fromGeneratedSecret('glyphpress'),
      storageEncrypted: true,
      deletionProtection: isProtected,
      removalPolicy: isProtected ? RemovalPolicy.SNAPSHOT : removalPolicy,
      backup: { retention: Duration.days(database.backupDays) },
      serverlessV2MinCapacity: database.minAcu,
      serverlessV2MaxCapacity: database.maxAcu,
      writer: rds.ClusterInstance.serverlessV2('writer'),
      readers: Array.from({ length: database.readers }, (_, index) =>
        rds.ClusterInstance.serverlessV2(`reader${index + 1}`, { scaleWithWriter: true }),
      ),
      parameters: { 'rds.force_ssl': '1' },
      cloudwatchLogsExports: ['postgresql'],
    })
    cluster.connections.allowDefaultPortFrom(clients, 'Workers and tunnel')
    return cluster
  }
}

/** Nobody from outside, nothing in the clear. */
function closed() {
  return {
    blockPublicAccess: s3.BlockPublicAccess.BLOCK_ALL,
    encryption: s3.BucketEncryption.S3_MANAGED,
    enforceSSL: true,
    objectOwnership: s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
  }
}
