import { Stack } from 'aws-cdk-lib'
import * as autoscaling from 'aws-cdk-lib/aws-autoscaling'
import * as ec2 from 'aws-cdk-lib/aws-ec2'
import * as iam from 'aws-cdk-lib/aws-iam'
import * as secrets from 'aws-cdk-lib/aws-secretsmanager'
import type { Construct } from 'constructs'
import type { NetworkStack } from './network-stack.ts'

/**
 * The way from Cloudflare's pool of connections to the database: a connector that calls out, so that nothing of the
 * database is open to the internet. Two of them, so that one may be replaced.
 */
export class TunnelStack extends Stack {
  constructor(scope: Construct, id: string, { network }: { network: NetworkStack }) {
    super(scope, id)
    const token = new secrets.Secret(this, 'Token', {
      description: 'Token of the Cloudflare tunnel; put in by hand, see infra/deploy.md',
    })
    const role = new iam.Role(this, 'Connector', {
      assumedBy: new iam.ServicePrincipal('ec2.amazonaws.com'),
      managedPolicies: [iam.ManagedPolicy.fromAwsManagedPolicyName('AmazonSSMManagedInstanceCore')],
    })
    token.grantRead(role)
    const userData = ec2.UserData.custom(
      [
        '#!/bin/bash',
        'set -euo pipefail',
        'curl -fsSL https://pkg.cloudflare.com/cloudflared.repo -o /etc/yum.repos.d/cloudflared.repo',
        'dnf install -y cloudflared',
        `token=$(aws secretsmanager get-secret-value --region ${this.region} --secret-id ${token.secretArn} --query SecretString --output text)`,
        'cloudflared service install "$token"',
        '',
      ].join('\n'),
    )
    const template = new ec2.LaunchTemplate(this, 'Template', {
      machineImage: ec2.MachineImage.latestAmazonLinux2023({
        cpuType: ec2.AmazonLinuxCpuType.ARM_64,
      }),
      instanceType: new ec2.InstanceType('t4g.nano'),
      userData,
      role,
      securityGroup: network.clients,
      associatePublicIpAddress: true,
      requireImdsv2: true,
      httpPutResponseHopLimit: 1,
      blockDevices: [
        {
          deviceName: '/dev/xvda',
          volume: ec2.BlockDeviceVolume.ebs(8, {
            encrypted: true,
            volumeType: ec2.EbsDeviceVolumeType.GP3,
          }),
        },
      ],
    })
    new autoscaling.AutoScalingGroup(this, 'Connectors', {
      vpc: network.vpc,
      vpcSubnets: { subnetType: ec2.SubnetType.PUBLIC },
      launchTemplate: template,
      minCapacity: 2,
      maxCapacity: 3,
      updatePolicy: autoscaling.UpdatePolicy.rollingUpdate({ minInstancesInService: 1 }),
    })
  }
}
