// What a trainer does to an engine over time: pauses, weight updates, memory, adapters. Each thing that is taken away
// is given back later; in between, others do the same, and the core refuses what does not fit the moment.

import type { CommandBody, MemoryTag, PauseMode } from '../../core/index.js';
import type { CheckedCore } from '../checked_core.js';
import type { Random } from '../random.js';
import type { RunConfig } from '../run_config.js';
import type { VirtualTime } from '../virtual_time.js';

type ControlCommand = Exclude<CommandBody, { type: 'addRequests' }>;

/** `keep` more often: what then runs on has KV of older weights. */
const MODES: readonly PauseMode[] = ['abort', 'wait', 'keep', 'keep', 'keep', 'retract'];

export class Trainer {
  readonly #core: CheckedCore;
  readonly #time: VirtualTime;
  readonly #random: Random;
  readonly #config: RunConfig;
  readonly #stepUs: number;
  #version = 0;

  constructor(
    core: CheckedCore,
    {
      time,
      random,
      config,
      stepUs,
    }: { time: VirtualTime; random: Random; config: RunConfig; stepUs: number },
  ) {
    this.#core = core;
    this.#time = time;
    this.#random = random;
    this.#config = config;
    this.#stepUs = stepUs;
  }

  loadAdapters(): void {
    for (let adapter = 1; adapter <= this.#config.numAdapters; adapter++) this.load(adapter);
  }

  load(adapter: number): void {
    this.#core.apply({
      type: 'loadAdapter',
      adapter,
      name: `adapter ${adapter}`,
      path: `adapters/${adapter}`,
    });
  }

  /** An adapter goes and comes back. */
  unloadForAWhile(adapter: number): void {
    this.#core.apply({ type: 'unloadAdapter', adapter });
    if (this.#config.numAdapters > 0) this.#after(20, () => this.load(adapter));
  }

  pause(mode: PauseMode): void {
    this.#core.apply({ type: 'pauseGeneration', mode });
    this.#later(25, { type: 'resumeGeneration' });
  }

  release(tags: readonly MemoryTag[], abortRunning: boolean): void {
    this.#core.apply({ type: 'releaseMemory', tags, abortRunning });
    // Tags may come back one by one.
    if (tags.length > 1 && this.#random.perMille(500))
      for (const tag of tags) this.#later(25, { type: 'resumeMemory', tags: [tag] });
    else this.#later(25, { type: 'resumeMemory', tags });
  }

  /** Pause, begin, finish, resume: a while between each two. */
  updateWeights(succeeded: boolean): void {
    const mode = this.#random.pick(MODES);
    this.#core.apply({ type: 'pauseGeneration', mode });
    this.#after(8, () => {
      this.#core.apply({ type: 'beginWeightUpdate' });
      this.#after(8, () => {
        this.#finish(succeeded);
        if (!succeeded) this.#after(8, () => this.replaceWeights(() => {}));
        this.#later(12, { type: 'resumeGeneration' });
      });
    });
  }

  /** With no pause around it: right when nothing is live, else refused. */
  replaceWeights(done: () => void): void {
    this.#after(4, () => {
      this.#core.apply({ type: 'beginWeightUpdate' });
      this.#after(4, () => {
        this.#finish(true);
        this.#after(4, done);
      });
    });
  }

  #finish(succeeded: boolean): void {
    this.#version += this.#random.between(1, 3);
    this.#core.apply({ type: 'finishWeightUpdate', version: this.#version, succeeded });
  }

  /**
   * Gives everything back: finishes an update, resumes memory, mends weights, resumes generation. `settle` carries out what is
   * in flight and every control command that waits.
   */
  mend(settle: () => void): void {
    const { books } = this.#core;
    settle();
    if (books.flags.isShutDown) return;
    if (books.flags.isUpdating) this.#finish(true);
    settle();
    if (books.flags.released !== 0) {
      const tags = (['kv_cache', 'weights'] as const).filter(
        (_, bit) => (books.flags.released >> bit) % 2 === 1,
      );
      this.#core.apply({ type: 'resumeMemory', tags });
    }
    settle();
    if (!books.flags.hasWeights) {
      this.#core.apply({ type: 'pauseGeneration', mode: 'keep' });
      this.#core.apply({ type: 'beginWeightUpdate' });
      this.#finish(true);
    }
    settle();
    this.#core.apply({ type: 'resumeGeneration' });
  }

  #later(maxSteps: number, command: ControlCommand): void {
    this.#after(maxSteps, () => this.#core.apply(command));
  }

  #after(maxSteps: number, act: () => void): void {
    this.#time.after(this.#random.between(0, maxSteps) * this.#stepUs, act);
  }
}
