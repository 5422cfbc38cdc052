/**
 * Runs a command, and ends it when standard input closes: that happens also when whoever started this was killed, of
 * which a program in another language hears nothing.
 *
 * Usage: node leash-cli.ts COMMAND [ARGUMENT...]
 */
import { spawn } from 'node:child_process'

const [command = '', ...args] = process.argv.slice(2)
const child = spawn(command, args, { stdio: ['ignore', 'inherit', 'inherit'] })
child.once('error', (error) => {
  console.error(error.message)
  process.exit(1)
})
child.once('exit', (code) => process.exit(code ?? 1))
process.stdin.resume().once('end', () => child.kill('SIGKILL'))
