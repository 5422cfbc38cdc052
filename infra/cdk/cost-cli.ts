import { costTable } from './cost.ts'
import { ENVIRONMENTS } from './environments.ts'

const HELP = `npm run cost [-- --help]

Prints what each environment costs, by the dated price list in infra/cdk/prices.ts, as it stands in infra/deploy.md.`

console.log(process.argv.includes('--help') ? HELP : costTable(ENVIRONMENTS))
