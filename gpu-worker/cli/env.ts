/** Where the command was given: npm runs scripts in the folder of the package, whatever folder it was called in. */
export const CALLER_FOLDER: string = process.env['INIT_CWD'] ?? process.cwd()

/** Whether npm started this process, through a shell that passes no signal on. */
export const IS_NPM_SCRIPT: boolean = process.env['npm_lifecycle_event'] !== undefined
