/** Takes the state folder that it is given and keeps it until it is killed. */
import { openState } from '../../infra/local/state.ts'

try {
  await openState(process.argv[2] ?? '')
  console.log('held')
  setInterval(() => {}, 60_000)
} catch (error) {
  console.log(String(error))
}
