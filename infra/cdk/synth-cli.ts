import { resolve } from 'node:path'
import { createCdkApp } from './app.ts'
import { ENVIRONMENTS } from './environments.ts'

const HELP = `npm run synth [-- --help]

Writes the CloudFormation templates of every environment to .glyphpress/cdk.out, without a network or an account.
Deploy them with a CDK command line: npx cdk --app .glyphpress/cdk.out deploy "glyphpress-staging-*" (infra/deploy.md).`

if (process.argv.includes('--help')) {
  console.log(HELP)
} else {
  const outdir = resolve('.glyphpress/cdk.out')
  const { stacks } = createCdkApp(ENVIRONMENTS, outdir).synth()
  for (const { stackName, template } of stacks) {
    const { Resources: resources } = template as { Resources: Record<string, unknown> }
    console.log(`${stackName}: ${Object.keys(resources).length} resources`)
  }
  console.log(`Templates are in ${outdir}`)
}
