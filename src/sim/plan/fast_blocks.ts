// The fast model's book of KV blocks: how many each sequence and each group's prompt takes, and who enters a new block when.
//
// The full blocks of a prompt are held once for its group, those of the prefix that all prompts share once for all. The rest of a
// sequence is its own. A sequence enters a new block every `blockSize` steps, so its next ones are known from its offset.

import { FastPool } from './fast_pool.js';
import type { LiveGroup, Sequence } from './fast_state.js';
import type { PlanCase } from './workload.js';

/** What step N computes can be hit when N + 2 is planned: N is committed then. */
const STEPS_UNTIL_KNOWN = 2;

export class FastBlocks {
  readonly #blockSize: number;
  readonly #sharedBlocks: number;
  readonly #pool: FastPool;
  /** Decoding sequences by the step, modulo the block size, at which they enter a new block. */
  readonly #entering: Uint32Array;
  /** From this step on the shared prefix is found in the cache, and counts as held for good. */
  #sharedFrom = Number.POSITIVE_INFINITY;

  constructor({ scheduler, sharedPrefixTokens }: PlanCase) {
    this.#blockSize = scheduler.blockSize;
    this.#sharedBlocks = Math.floor(sharedPrefixTokens / scheduler.blockSize);
    this.#pool = new FastPool(scheduler.numBlocks);
    this.#entering = new Uint32Array(scheduler.blockSize);
  }

  get available(): number {
    return this.#pool.available;
  }

  get isAllGivenBack(): boolean {
    const kept = this.#sharedFrom === Number.POSITIVE_INFINITY ? 0 : this.#sharedBlocks;
    return this.#pool.available + kept === this.#pool.numBlocks;
  }

  /** A prompt has been computed in this step: the first one's shared prefix is everybody's once that is committed. */
  promptComputed(group: LiveGroup, step: number): void {
    if (this.#sharedFrom !== Number.POSITIVE_INFINITY || this.#sharedBlocks === 0) return;
    this.#sharedFrom = step + STEPS_UNTIL_KNOWN;
    group.promptBlocks -= this.#sharedBlocks;
  }

  /** What a sequence of so many tokens holds beside its prompt's full blocks. */
  ownBlocks({ group }: LiveGroup, tokens: number): number {
    return Math.max(0, Math.ceil(tokens / this.#blockSize) - this.#fullBlocks(group.promptTokens));
  }

  /** Prompt blocks that would have to be taken for the group's next sequence. */
  promptBlocksMissing(group: LiveGroup, step: number): number {
    if (group.sequences > 0) return 0;
    return this.#fullBlocks(group.group.promptTokens) - (step >= this.#sharedFrom ? this.#sharedBlocks : 0);
  }

  /** Blocks taken for new sequences of a group, each with that many tokens: gives the tokens that the cache spares them. */
  join(group: LiveGroup, { count, tokens, step }: { count: number; tokens: number; step: number }): number {
    const found = this.#joinPrompt(group, { count, step });
    this.#pool.take(count * this.ownBlocks(group, tokens));
    return this.#sparedTokens(found, tokens);
  }

  /** The same for a sequence that was preempted. */
  rejoin(sequence: Sequence, step: number): number {
    const { group, tokens } = sequence;
    const foundOfPrompt = this.#joinPrompt(group, { count: 1, step });
    const foundOfOwn = this.#pool.reclaim(sequence);
    this.#pool.take(this.ownBlocks(group, tokens) - foundOfOwn);
    // A block is found by the one before it: behind a gap nothing is.
    const isWhole = foundOfPrompt === this.#fullBlocks(group.group.promptTokens);
    return this.#sparedTokens(isWhole ? foundOfPrompt + foundOfOwn : foundOfPrompt, tokens);
  }

  /** @param owner whoever may come back for them */
  leave({ group }: Sequence, { tokens, owner }: { tokens: number; owner: Sequence | null }): void {
    this.#pool.giveBack(this.ownBlocks(group, tokens), owner);
    group.sequences -= 1;
    if (group.sequences === 0) this.#pool.giveBack(group.promptBlocks, group);
  }

  startDecoding(sequence: Sequence): void {
    this.#entering[this.#remainderOf(sequence)]! += 1;
  }

  stopDecoding(sequence: Sequence): void {
    this.#entering[this.#remainderOf(sequence)]! -= 1;
  }

  /** Blocks that the decoding sequences need in this step. */
  neededAt(step: number): number {
    return this.#entering[step % this.#blockSize]!;
  }

  /** Steps from `step` on for which blocks suffice, at least that one. */
  stepsUntilShort(step: number, numDecoding: number): number {
    const cycles = Math.floor(this.available / numDecoding);
    if (cycles > 0) return cycles * this.#blockSize;
    let steps = 0;
    for (let needed = 0; steps < this.#blockSize; steps += 1) {
      needed += this.neededAt(step + steps);
      if (needed > this.available) break;
    }
    return Math.max(1, steps);
  }

  /** Takes what the decoding sequences enter in these steps, and gives how many blocks that are. */
  grow(step: number, { steps, numDecoding }: { steps: number; numDecoding: number }): number {
    let blocks = Math.floor(steps / this.#blockSize) * numDecoding;
    for (let i = 0; i < steps % this.#blockSize; i += 1) blocks += this.neededAt(step + i);
    this.#pool.take(blocks);
    return blocks;
  }

  /** Gives the blocks of its prompt that are found in the cache. */
  #joinPrompt(group: LiveGroup, { count, step }: { count: number; step: number }): number {
    const full = this.#fullBlocks(group.group.promptTokens);
    let found = full;
    if (group.sequences === 0) {
      const shared = step >= this.#sharedFrom ? this.#sharedBlocks : 0;
      const cached = this.#pool.reclaim(group);
      group.promptBlocks = full - shared;
      this.#pool.take(group.promptBlocks - cached);
      found = Math.min(full, shared + cached);
    }
    group.sequences += count;
    return found;
  }

  #fullBlocks(tokens: number): number {
    return Math.floor(tokens / this.#blockSize);
  }

  /** At least one token is always computed. */
  #sparedTokens(blocks: number, tokens: number): number {
    return Math.min(blocks, this.#fullBlocks(tokens - 1)) * this.#blockSize;
  }

  /** It has `offset` + s tokens at step s, and writes the first of a block at the steps of this remainder. */
  #remainderOf({ offset }: Sequence): number {
    return (((1 - offset) % this.#blockSize) + this.#blockSize) % this.#blockSize;
  }
}
