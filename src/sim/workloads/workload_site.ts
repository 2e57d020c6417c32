// What every workload works with, and what it offers.

import type { Account, RequestDraft } from '../account.js';
import { mix } from '../host/oracle.js';
import type { Random } from '../random.js';
import type { VirtualTime } from '../virtual_time.js';

/** What a workload works with. */
export interface Site {
  random: Random;
  time: VirtualTime;
  /** Of a usual step: what rates and gaps are counted in. */
  stepUs: number;
  /** Tokens that one sequence may have. */
  longest: number;
  vocabSize: number;
  maxNumSeqs: number;
  /** Requests that are sent together at most: some more than can wait, at times. */
  mostAtOnce: number;
  send(drafts: RequestDraft[]): Account[];
  /** Between two rollouts of the rl workload: the trainer's new weights. */
  updateWeights(done: () => void): void;
}

export interface Workload {
  begin(): void;
  ended(account: Account): void;
  /** Nothing is sent any more. */
  stop(): void;
  /** Everything that it will ever send has been sent. */
  readonly isOver: boolean;
}

/** Tokens that only depend on the family: prompts of one family begin alike. */
export function familyTokens(family: number, length: number, vocabSize: number): Int32Array {
  return Int32Array.from({ length }, (_, i) => (mix(mix(0x70726f6d, family), i) >>> 0) % vocabSize);
}

/** Mostly room for the length that is wanted; now and then less, so that the limit ends the sample. */
export function drawMaxTokens(random: Random, wanted: number): number {
  return random.perMille(250) ? random.between(1, wanted) : wanted + random.between(0, 8);
}
