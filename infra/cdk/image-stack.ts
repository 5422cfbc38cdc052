import { createHash } from 'node:crypto'
import { Stack } from 'aws-cdk-lib'
import * as iam from 'aws-cdk-lib/aws-iam'
import * as builder from 'aws-cdk-lib/aws-imagebuilder'
import type { Construct } from 'constructs'
import type { DataStack } from './data-stack.ts'
import type { Environment } from './environments.ts'
import { imageComponent } from './image-recipe.ts'
import type { NetworkStack } from './network-stack.ts'

export interface ImageStackProps {
  readonly environment: Environment
  readonly network: NetworkStack
  readonly data: DataStack
}

/** Where the newest image's id is; instances are started from what stands there at that moment. */
export function imageParameterOf({ name }: Environment): string {
  return `/glyphpress/${name}/worker-image`
}

const ROOT_GIB = 60

/** Builds the workers' machine image, on a machine that has the same kind of card, so that its tests mean something. */
export class ImageStack extends Stack {
  constructor(scope: Construct, id: string, { environment, network, data }: ImageStackProps) {
    super(scope, id)
    const named = (name: string) => `glyphpress-${environment.name}-${name}`
    const content = imageComponent(`s3://${data.models.bucketName}/releases/glyphpress.tar.gz`)
    // A component's version cannot be changed after it was made, so its text makes its version.
    const version = `1.0.${Number.parseInt(createHash('sha256').update(content).digest('hex').slice(0, 6), 16)}`
    const component = new builder.CfnComponent(this, 'Component', {
      name: named('worker'),
      platform: 'Linux',
      version,
      data: content,
    })
    const recipe = new builder.CfnImageRecipe(this, 'Recipe', {
      name: named('worker'),
      version,
      parentImage: `arn:${this.partition}:imagebuilder:${this.region}:aws:image/amazon-linux-2023-x86/x.x.x`,
      components: [{ componentArn: component.attrArn }],
      blockDeviceMappings: [
        {
          deviceName: '/dev/xvda',
          ebs: {
            encrypted: true,
            volumeSize: ROOT_GIB,
            volumeType: 'gp3',
            deleteOnTermination: true,
          },
        },
      ],
    })
    const infrastructure = new builder.CfnInfrastructureConfiguration(this, 'Machine', {
      name: named('worker'),
      instanceProfileName: this.createProfile(data).ref,
      instanceTypes: ['g6e.4xlarge'],
      subnetId: network.vpc.publicSubnets[0]?.subnetId ?? '',
      securityGroupIds: [network.clients.securityGroupId],
      instanceMetadataOptions: { httpTokens: 'required', httpPutResponseHopLimit: 1 },
      terminateInstanceOnFailure: true,
    })
    const distribution = new builder.CfnDistributionConfiguration(this, 'Distribution', {
      name: named('worker'),
      distributions: [
        {
          region: this.region,
          amiDistributionConfiguration: { Name: `${named('worker')}-{{ imagebuilder:buildDate }}` },
          ssmParameterConfigurations: [
            { parameterName: imageParameterOf(environment), dataType: 'aws:ec2:image' },
          ],
        },
      ],
    })
    new builder.CfnImagePipeline(this, 'Pipeline', {
      name: named('worker'),
      imageRecipeArn: recipe.attrArn,
      infrastructureConfigurationArn: infrastructure.attrArn,
      distributionConfigurationArn: distribution.attrArn,
      imageTestsConfiguration: { imageTestsEnabled: true, timeoutMinutes: 60 },
    })
  }

  private createProfile(data: DataStack): iam.CfnInstanceProfile {
    const role = new iam.Role(this, 'Builder', {
      assumedBy: new iam.ServicePrincipal('ec2.amazonaws.com'),
      managedPolicies: [
        iam.ManagedPolicy.fromAwsManagedPolicyName('AmazonSSMManagedInstanceCore'),
        iam.ManagedPolicy.fromAwsManagedPolicyName('EC2InstanceProfileForImageBuilder'),
      ],
    })
    role.addToPolicy(
      new iam.PolicyStatement({
        actions: ['s3:GetObject'],
        resources: [data.models.arnForObjects('releases/*')],
      }),
    )
    return new iam.CfnInstanceProfile(this, 'BuilderProfile', { roles: [role.roleName] })
  }
}
