// The clients' books: every request that was ever sent, which of them live, and what has come of them. All checkers
// look things up here.

import { type Account, SampleState } from './account.js';
import { mix } from './host/oracle.js';

export type Ending = 'stop' | 'length' | 'abort' | 'error' | 'refused';

export class Ledger {
  /** Live requests by id, in the order of their acceptance. */
  readonly live = new Map<number, Account>();
  /** All requests: a slot may be opened for one whose end is only just being delivered. */
  readonly bySeed = new Map<number, Account>();
  readonly endings: Record<Ending, number> = { stop: 0, length: 0, abort: 0, error: 0, refused: 0 };
  numDelivered = 0;
  /** Samples of accepted requests that have ended. */
  numEnded = 0;
  numLiveSamples = 0;
  /** A hash of all deliveries, in order. */
  deliveries = 0;
  #arrivals = 0;
  readonly #onEnd: (account: Account) => void;

  /** @param onEnd told of each accepted request when its last sample has ended */
  constructor(onEnd: (account: Account) => void) {
    this.#onEnd = onEnd;
  }

  accept(account: Account, isHeld: boolean): void {
    this.#arrivals += 1;
    account.arrival = this.#arrivals;
    account.isHeld = isHeld;
    this.live.set(account.id, account);
    this.numLiveSamples += account.numLive;
  }

  refuse(account: Account): void {
    this.endings.refused += account.samples.length;
    for (const sample of account.samples) sample.state = SampleState.ended;
    account.numLive = 0;
  }

  deliver(account: Account, sample: number, tokenId: number): void {
    account.samples[sample]!.outputs.push(tokenId);
    this.numDelivered += 1;
    this.deliveries = mix(mix(mix(this.deliveries, account.id), sample), tokenId);
  }

  end(account: Account, sample: number, ending: Ending): void {
    account.samples[sample]!.state = SampleState.ended;
    if (account.leader === sample) account.leader = -1;
    account.numLive -= 1;
    this.numLiveSamples -= 1;
    this.numEnded += 1;
    this.endings[ending] += 1;
    if (account.numLive > 0) return;
    this.live.delete(account.id);
    this.#onEnd(account);
  }

  /**
   * Everything that runs has been preempted: what has been sampled waits with its tokens, a prompt's leader counts as
   * not started.
   */
  preemptAll(): void {
    for (const account of this.live.values()) {
      for (const [index, sample] of account.samples.entries()) {
        if (sample.state !== SampleState.open) continue;
        sample.state = index === account.leader ? SampleState.unstarted : SampleState.waiting;
      }
      account.leader = -1;
    }
  }

  releaseHeld(): void {
    for (const account of this.live.values()) account.isHeld = false;
  }

  get hasOnlyHeld(): boolean {
    for (const account of this.live.values()) if (!account.isHeld) return false;
    return true;
  }
}
