// Who asks for what, and when. A workload makes appointments in virtual time and sends drafts; it hears of the
// requests that ended.

import type { Account, RequestDraft } from './account.js';
import { burstWorkload } from './burst_workload.js';
import { chatWorkload } from './chat_workload.js';
import { type FileRequest, fileWorkload } from './file_workload.js';
import { mix } from './oracle.js';
import type { Random } from './random.js';
import { rlWorkload } from './rl_workload.js';
import type { VirtualTime } from './virtual_time.js';

export const WORKLOADS = ['rl', 'chat', 'burst'] as const;
export type WorkloadName = (typeof WORKLOADS)[number];

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

export function createWorkload(kind: WorkloadName | readonly FileRequest[], site: Site): Workload {
  if (kind === 'rl') return rlWorkload(site);
  if (kind === 'chat') return chatWorkload(site);
  if (kind === 'burst') return burstWorkload(site);
  return fileWorkload(site, kind);
}

/** Tokens that only depend on the family: prompts of one family begin alike. */
export function familyTokens(family: number, length: number, vocabSize: number): Int32Array {
  return Int32Array.from({ length }, (_, i) => (mix(mix(0x70726f6d, family), i) >>> 0) % vocabSize);
}

/** Mostly room for the length that is wanted; now and then less, so that the limit ends the sample. */
export function drawMaxTokens(random: Random, wanted: number): number {
  return random.perMille(250) ? random.between(1, wanted) : wanted + random.between(0, 8);
}
