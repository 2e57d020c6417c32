// What a trainer does with the engine's memory between rollouts: takes it back, and gives it again.

import type { CommandBody, MemoryTag } from '../core/index.js';
import { KadenzError } from '../errors.js';

export type { MemoryTag };

export interface ReleaseOptions {
  /** Default both. */
  tags?: readonly MemoryTag[] | undefined;
  /** Ends what runs or waits with finishReason 'abort'. Default false: it goes on after resume, with the same samples. */
  abortRunning?: boolean;
}

export interface ResumeOptions {
  /** Default all that is released. */
  tags?: readonly MemoryTag[] | undefined;
}

const ALL_TAGS: readonly MemoryTag[] = ['kv_cache', 'weights'];

export class EngineMemory {
  readonly #control: (command: CommandBody) => Promise<void>;
  readonly #released: () => Promise<readonly MemoryTag[]>;

  /** @internal */
  constructor(
    control: (command: CommandBody) => Promise<void>,
    released: () => Promise<readonly MemoryTag[]>,
  ) {
    this.#control = control;
    this.#released = released;
  }

  /**
   * Gives memory back; resolves when it is free. On a GPU the weights go to page-locked memory and CUDA graphs stay; on the CPU the weights are
   * read from the model directory again at resume. What runs is set back (its KV cache goes) and recomputed after resume, bit for bit. Requests that come
   * meanwhile fail with memory_released, unless generation is paused: then they queue.
   * @throws KadenzError `memory_released` where one of the tags is released already, `invalid_argument`
   */
  async release({ tags = ALL_TAGS, abortRunning = false }: ReleaseOptions = {}): Promise<void> {
    await this.#control({ type: 'releaseMemory', tags: checked(tags), abortRunning });
  }

  /** Takes it again; resolves when it is there, and what was set back goes on. @throws KadenzError `memory_not_released`; `out_of_memory`: then all that was asked for stays released */
  async resume({ tags }: ResumeOptions = {}): Promise<void> {
    const wanted = tags ?? (await this.#released());
    await this.#control({ type: 'resumeMemory', tags: wanted.length === 0 ? ALL_TAGS : checked(wanted) });
  }
}

function checked(tags: readonly MemoryTag[]): readonly MemoryTag[] {
  const known = Array.isArray(tags) && tags.length > 0 && tags.every((tag) => ALL_TAGS.includes(tag));
  if (known) return tags;
  throw new KadenzError(
    'invalid_argument',
    `tags is ${JSON.stringify(tags)}; it must be a list of 'kv_cache' and 'weights', with at least one of them.`,
    { value: tags, limit: ALL_TAGS },
  );
}
