import { Stack } from 'aws-cdk-lib'
import * as ec2 from 'aws-cdk-lib/aws-ec2'
import type { Construct } from 'constructs'

/**
 * One network over two zones. Workers stand in public subnets and take no connection at all, which saves the price of a
 * NAT gateway for 36 GB of weights; the database has no way out or in but from the security groups named to it.
 */
export class NetworkStack extends Stack {
  readonly vpc: ec2.IVpc
  /** Workers and tunnel; nothing may connect to them. */
  readonly clients: ec2.SecurityGroup

  constructor(scope: Construct, id: string) {
    super(scope, id)
    const vpc = new ec2.Vpc(this, 'Vpc', {
      maxAzs: 2,
      natGateways: 0,
      restrictDefaultSecurityGroup: false,
      subnetConfiguration: [
        { name: 'public', subnetType: ec2.SubnetType.PUBLIC, cidrMask: 20 },
        { name: 'database', subnetType: ec2.SubnetType.PRIVATE_ISOLATED, cidrMask: 24 },
      ],
      // Weights and pictures by the short and free way.
      gatewayEndpoints: { s3: { service: ec2.GatewayVpcEndpointAwsService.S3 } },
    })
    // The library's own types do not agree with each other under exact optional properties.
    this.vpc = vpc as ec2.IVpc
    this.clients = new ec2.SecurityGroup(this, 'Clients', {
      vpc: this.vpc,
      description: 'Workers and tunnel: out to everywhere, in from nowhere',
    })
  }
}
