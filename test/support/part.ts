/** A part for tests of the launcher: says the lines of SAYS, and ends with the code ENDS or stays. */
const { SAYS = '[]', ENDS = '' } = process.env
for (const line of JSON.parse(SAYS) as string[]) console.error(line)
if (ENDS === '') setInterval(() => {}, 60_000)
else process.exitCode = Number(ENDS)
