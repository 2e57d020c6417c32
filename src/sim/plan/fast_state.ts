// What the fast model keeps of a sequence, a group and a prompt under way, and how long a stretch of decode steps takes.

import { type StepShape, stepTimeUs } from '../cost_model.js';
import type { BlockOwner } from './fast_pool.js';
import type { Group, PlanCase } from './workload.js';

export interface Sequence extends BlockOwner {
  /** Order of everything: the group's number, then the sample's. */
  key: number;
  group: LiveGroup;
  /** Output tokens that are still to be sampled when it is admitted. */
  remaining: number;
  /** Prompt and outputs known when it is admitted; at step s of its decoding it has `offset` + s. */
  tokens: number;
  offset: number;
  /** The step that samples its last token. */
  lastStep: number;
  /** Its last row: one later if only the token itself tells that it is the last. */
  lastRow: number;
}

export interface LiveGroup extends BlockOwner {
  index: number;
  group: Group;
  /** Blocks of its prompt that its samples hold together, less those of the shared prefix if that was found in the cache. */
  promptBlocks: number;
  longest: number;
  sequences: number;
  unstarted: number;
  wantedLeft: number;
  /** Enough of its samples are done: those that still run have one row in flight. */
  aborted: boolean;
}

export interface Prefill {
  sequences: Sequence[];
  computed: number;
  tokens: number;
}

/**
 * Time of `steps` decode steps of the same sequences, from `shape` on; each adds one token to every context. The roofline is a straight
 * line but where one bound takes over from the other: a stretch in which it is not straight is cut in half.
 * @param shape is used up: its contexts change
 */
export function decodeTimeUs(plan: PlanCase, shape: Required<StepShape>, steps: number): number {
  const begin = shape.contextTokens;
  const first = timeAt(plan, shape, begin);
  if (steps === 1) return first;
  const mean = (first + timeAt(plan, shape, begin + (steps - 1) * shape.numSequences)) / 2;
  if (steps === 2) return mean * steps;
  const half = Math.floor(steps / 2);
  const middle = timeAt(plan, shape, begin + half * shape.numSequences);
  // Beside the rounding of three times to whole microseconds.
  if (Math.abs(middle - mean) <= 2 + mean * 1e-3) return mean * steps;
  shape.contextTokens = begin;
  const firstHalf = decodeTimeUs(plan, shape, half);
  shape.contextTokens = begin + half * shape.numSequences;
  return firstHalf + decodeTimeUs(plan, shape, steps - half);
}

function timeAt({ device, model }: PlanCase, shape: Required<StepShape>, contextTokens: number): number {
  shape.contextTokens = contextTokens;
  shape.attendedTokens = contextTokens;
  return stepTimeUs(device, model, shape);
}
