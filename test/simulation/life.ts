import type { Db } from '../../db/client.ts'
import type { FaultLedger } from './fault-ledger.ts'
import type { Random } from './random.ts'

/** One life of a process: once it has ended, nothing that it began goes on. */
export interface Life {
  readonly isOver: boolean
  end(): void
  /** To be called before each effect on the world. @throws when the life is over, or ends here */
  step(): void
}

/**
 * A life that may end before any of its effects.
 *
 * What SIGKILL would do to a process, in one: what it had sent goes on, and nothing more is sent.
 */
export function createLife(input: {
  /** Of the process, such as `worker`. */
  name: string
  random: Random
  ledger: FaultLedger
  /** How likely it ends before each step. */
  rate: () => number
}): Life {
  let isOver = false
  return {
    get isOver() {
      return isOver
    },
    end: () => void (isOver = true),
    step() {
      if (!isOver && input.random.chance(input.rate())) {
        isOver = true
        input.ledger.note(input.name, 'killed between statements')
      }
      if (isOver) throw new Error('killed')
    },
  }
}

/**
 * The database as a process sees it that may end before any of its statements.
 *
 * @param onStatement told of each statement that is sent, with its parameters
 */
export function withLife(
  db: Db,
  life: Life,
  onStatement?: (sql: string, parameters: readonly unknown[]) => void,
): Db {
  return {
    get sql() {
      return new Proxy(db.sql, {
        apply(target, self, input) {
          life.step()
          const [text, ...parameters] = input as [TemplateStringsArray, ...unknown[]]
          onStatement?.(text.join('?'), parameters)
          return Reflect.apply(target, self, input)
        },
        get(target, name) {
          if (name === 'begin' || name === 'unsafe') life.step()
          return Reflect.get(target, name)
        },
      })
    },
    get orm() {
      life.step()
      return db.orm
    },
  }
}
