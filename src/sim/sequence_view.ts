// What the checkers expect to stand in the KV of one sequence, from when its slot was opened to when it is preempted
// or ends.
//
// It is computed from the tokens that the client knows and from the weights that the host had loaded, never from what
// the host wrote. Positions that the prefix cache spared must have been computed by the present weights and by the
// present load of the adapter: both forget the cache. Positions that the sequence computed itself have the weights of
// their step.

import type { Account } from './account.js';
import { EMPTY_FOLD, foldBlock, kvOf } from './host/oracle.js';

export class SequenceView {
  readonly account: Account;
  readonly sample: number;
  readonly root: number;
  /** Positions that are computed and committed; -1 until the first commit. */
  computed = -1;
  /** A step that computed some of it failed: nothing can be made of what comes behind. */
  isVoid = false;
  kv = 0;
  fold = EMPTY_FOLD;
  #blockSum = 0;
  readonly #blockSize: number;

  constructor(account: Account, sample: number, root: number, blockSize: number) {
    this.account = account;
    this.sample = sample;
    this.root = root;
    this.#blockSize = blockSize;
  }

  /** Begins behind a prefix that the cache spared. */
  beginAt(start: number, weightVersion: number): void {
    this.computed = 0;
    this.kv = this.root;
    for (let position = 0; position < start; position++)
      this.append(this.account.tokenAt(this.sample, position)!, weightVersion);
  }

  append(tokenId: number, weightVersion: number): void {
    this.kv = kvOf(this.kv, tokenId, weightVersion);
    this.#blockSum = (this.#blockSum + this.kv) | 0;
    this.computed += 1;
    if (this.computed % this.#blockSize !== 0) return;
    this.fold = foldBlock(this.fold, this.#blockSum);
    this.#blockSum = 0;
  }

  /** A follower goes on from what its leader computed. */
  takeOver(leader: SequenceView): void {
    this.isVoid = leader.isVoid;
    this.computed = leader.computed;
    this.kv = leader.kv;
    this.fold = leader.fold;
    this.#blockSum = leader.#blockSum;
  }
}
