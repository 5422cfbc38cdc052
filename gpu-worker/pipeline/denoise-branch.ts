import { buildFirstBlock, buildOtherBlocks, buildShortcut } from '../model/transformer-split.ts'
import { buildDenoiser } from '../model/transformer.ts'
import type { DenoiserModel } from '../model/transformer-conditions.ts'
import { takeFloats, takeTensor } from './outputs.ts'
import { openSession } from './session.ts'
import type { BoundRun, Feeds, HostTensor, RunHooks, SessionOptions } from './session.ts'
import { keptNames } from './source-cache.ts'

/** One side of guidance, for one picture. */
export interface Branch {
  /**
   * @param feeds what changes from step to step: `patches` and `modulation`
   * @param hooks.mustCompute leaves nothing out
   */
  step(feeds: Feeds, hooks: RunHooks & { mustCompute?: boolean }): Promise<Evaluation>
  release(): void
}

export interface Evaluation {
  velocity: Float32Array
  /** False where the blocks behind the first were left out. */
  isComputed: boolean
}

/** The blocks of the denoiser, in one graph or in several. */
export interface Blocks {
  /** @param shared what stays alike in all steps of a picture, `kept` among it */
  bind(shared: Feeds): Branch
  /** Runs all blocks once and gives what each keeps of its keys and values, by `keptNames`. */
  keep(feeds: Feeds): Promise<Feeds>
  close(): Promise<void>
}

/** Opens all blocks as one graph. */
export async function openWholeBlocks(
  model: DenoiserModel,
  options: SessionOptions,
): Promise<Blocks> {
  const session = await openSession(buildDenoiser(model), options)
  return {
    bind(shared) {
      const bound = session.bind(shared)
      return {
        async step(feeds, hooks) {
          const results = await bound.run(feeds, ['velocity'], hooks)
          return { velocity: takeFloats(results, 'velocity'), isComputed: true }
        },
        release: () => bound.release(),
      }
    },
    keep: (feeds) => session.run(feeds, keptNames(model.config)),
    close: () => session.close(),
  }
}

/**
 * Opens the first block apart from the others, which are left out of a step where what the first one adds to the image has
 * changed by less than `threshold` since they were last computed, relative to its size: what they added then is added again.
 *
 * On the reference cases with 50 steps, whose weights are random and whose denoiser has few blocks, a threshold of 0.7 computes
 * 30 to 41 of them whole and moves the final latents by 2.1 to 3.3 percent (root mean square), one of 0.8 computes 24 to 34 at
 * 2.8 to 5.2 percent, one of 1 computes 6 to 12 at 21 to 25 percent. For as many whole steps that is what `createStepCache`
 * costs, and a step that is left out there costs nothing at all. On the bundled checkpoint, with its 10 steps and 4 blocks, 0.4
 * draws at 39 dB and saves no time to speak of, 0.7 an eighth at 33 dB; fewer steps do better (`npm run bench:options`).
 *
 * What a picture keeps, three times [tokens, D] in float32 for each branch, lies in host memory, and on a card too it is
 * carried there and back at every step.
 */
export async function openSplitBlocks(
  model: DenoiserModel,
  options: SessionOptions & { threshold: number },
): Promise<Blocks> {
  const first = await openSession(buildFirstBlock(model), options)
  const others = await openSession(buildOtherBlocks(model), options)
  const shortcut = await openSession(buildShortcut(model), options)
  const { innerSize } = model.config
  return {
    bind(shared) {
      const [ofFirst, ofOthers] = splitFeeds(shared)
      const bound = { first: first.bind(ofFirst), others: others.bind(ofOthers), shortcut }
      const tokens = tokensOf(shared)
      const nothing = { data: new Float32Array(tokens * innerSize), shape: [tokens, innerSize] }
      return createCachedBranch(bound, { nothing, threshold: options.threshold })
    },
    async keep(feeds) {
      const [ofFirst, ofOthers] = splitFeeds(feeds)
      const { patches, modulation } = feeds
      if (!patches || !modulation) throw new Error('the blocks need patches and modulation')
      const [tokens = 0] = patches.shape
      const before = { data: new Float32Array(tokens * innerSize), shape: [tokens, innerSize] }
      const [keptFirst, keptOthers] = divide(keptNames(model.config), isOfFirst)
      const start = await first.run({ ...ofFirst, patches, modulation, before }, [
        'image',
        'text_out',
        ...keptFirst,
      ])
      const { image, text_out: text, ...kept } = start
      if (!image || !text) throw new Error('the first block gave no streams')
      const rest = await others.run({ ...ofOthers, modulation, image, text }, keptOthers)
      return { ...kept, ...rest }
    },
    async close() {
      await first.close()
      await others.close()
      await shortcut.close()
    },
  }
}

interface BoundParts {
  first: BoundRun
  others: BoundRun
  shortcut: { run: (feeds: Feeds, names: readonly string[], hooks?: RunHooks) => Promise<Feeds> }
}

function createCachedBranch(
  { first, others, shortcut }: BoundParts,
  { nothing, threshold }: { nothing: HostTensor; threshold: number },
): Branch {
  /** Of the step that was last computed whole. */
  let kept: { added: HostTensor; rest: HostTensor } | null = null
  return {
    async step({ patches, modulation }, { mustCompute = false, ...hooks }) {
      if (!patches || !modulation) throw new Error('a step needs patches and modulation')
      const feeds = { patches, modulation, before: kept?.added ?? nothing }
      const start = await first.run(feeds, ['image', 'text_out', 'added', 'change'], hooks)
      const image = takeTensor(start, 'image')
      const [change = NaN] = takeFloats(start, 'change')
      // A change that is no number is no reason to leave anything out.
      if (kept && !mustCompute && change < threshold) {
        const known = { image, modulation, rest: kept.rest }
        const results = await shortcut.run(known, ['velocity'], hooks)
        return { velocity: takeFloats(results, 'velocity'), isComputed: false }
      }
      const text = takeTensor(start, 'text_out')
      const results = await others.run({ image, text, modulation }, ['velocity', 'rest'], hooks)
      kept = { added: takeTensor(start, 'added'), rest: takeTensor(results, 'rest') }
      return { velocity: takeFloats(results, 'velocity'), isComputed: true }
    },
    release() {
      first.release()
      others.release()
      kept = null
    },
  }
}

/** What the first block takes, and what the others do: rotation and `kept` are taken by both. */
function splitFeeds(feeds: Feeds): [Feeds, Feeds] {
  const { text, prior, patches: _patches, ...blocks } = feeds
  if (!text || !prior) throw new Error('the blocks need text and prior')
  const [ofFirst, ofOthers] = divide(Object.keys(blocks), isOfFirst)
  const isOfAll = (name: string) => /^(cos|sin|kept)$/.test(name)
  const pick = (names: readonly string[]): Feeds =>
    Object.fromEntries(
      Object.entries(blocks).filter(([name]) => names.includes(name) || isOfAll(name)),
    )
  return [{ ...pick(ofFirst), text, prior }, pick(ofOthers.filter((name) => name !== 'modulation'))]
}

/** By the names of a layer's tensors, which end in its number. */
function isOfFirst(name: string): boolean {
  return name.endsWith('_0')
}

function divide<Item>(items: readonly Item[], isFirst: (item: Item) => boolean): [Item[], Item[]] {
  return [items.filter(isFirst), items.filter((item) => !isFirst(item))]
}

/** Tokens of the picture: positions without those of text. */
function tokensOf({ cos, text }: Feeds): number {
  return (cos?.shape[0] ?? 0) - (text?.shape[0] ?? 0)
}
