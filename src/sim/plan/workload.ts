// What each replica is given: groups of samples of one prompt, with the lengths that they will have.
//
// Placement is static, as a router that looks at the prompt alone would do it: `prefix` deals whole groups in turn, so that a prompt is
// computed once; `round-robin` deals samples in turn, so that each replica which gets one computes the prompt.
// A replica's work is derived from the case and its number, by whoever simulates it: nothing but these crosses to a worker.

import type { CoreConfig } from '../../core/index.js';
import type { DeviceProfile, ModelShape } from '../cost_model.js';
import { drawLengths, type LengthDistribution } from './lengths.js';

export type GroupPlacement = 'prefix' | 'round-robin';

/** One rollout to plan, with every number settled. Plain data. */
export interface PlanCase {
  /** 'base', or the what-if as it was typed. */
  name: string;
  device: DeviceProfile;
  model: ModelShape;
  /** kv_blocks, budgets and block size; lengths and queue sizes follow from the work. */
  scheduler: Required<
    Pick<CoreConfig, 'numBlocks' | 'blockSize' | 'maxNumSeqs' | 'maxNumBatchedTokens' | 'maxModelLen'>
  >;
  seed: number;
  prompts: number;
  /** Samples wanted of each prompt. */
  n: number;
  /** Samples started of each prompt, at least n: the rest is aborted when n are done. */
  startedN: number;
  lengths: LengthDistribution;
  promptLengths: LengthDistribution;
  /** Tokens in front of every prompt, the same for all. */
  sharedPrefixTokens: number;
  placement: GroupPlacement;
  replicas: number;
}

/** Samples of one prompt that run on one replica. */
export interface Group {
  /** Number of the prompt in the whole rollout. */
  prompt: number;
  /** The shared prefix is part of it. */
  promptTokens: number;
  /** Output tokens of each sample, at least 1. */
  lengths: Uint32Array;
  /** How many of them are wanted. */
  wanted: number;
}

export function groupsOf(plan: PlanCase, replica: number): Group[] {
  const groups: Group[] = [];
  if (plan.placement === 'prefix') {
    for (let prompt = replica; prompt < plan.prompts; prompt += plan.replicas) {
      groups.push(groupOf(plan, prompt, null));
    }
    return groups;
  }
  const samples = plan.prompts * plan.startedN;
  for (let sample = replica; sample < samples; ) {
    const prompt = Math.floor(sample / plan.startedN);
    const indices: number[] = [];
    for (; sample < (prompt + 1) * plan.startedN; sample += plan.replicas)
      indices.push(sample - prompt * plan.startedN);
    groups.push(groupOf(plan, prompt, indices));
  }
  return groups;
}

function groupOf(plan: PlanCase, prompt: number, indices: readonly number[] | null): Group {
  const { seed, startedN, sharedPrefixTokens } = plan;
  const limit = plan.scheduler.maxModelLen;
  const most = limit - sharedPrefixTokens - 1;
  const [ownTokens] = drawLengths(plan.promptLengths, { seed, stream: 'prompt', prompt, count: 1, most });
  const promptTokens = sharedPrefixTokens + ownTokens!;
  const output = { seed, stream: 'output', prompt, count: startedN, most: limit - promptTokens } as const;
  const all = drawLengths(plan.lengths, output);
  const lengths = indices === null ? all : Uint32Array.from(indices, (index) => all[index]!);
  return { prompt, promptTokens, lengths, wanted: indices === null ? plan.n : indices.length };
}

/** Token ids of a prompt: the shared ones first, then the prompt's number in digits of the vocabulary, so that no two are alike. */
export function promptTokenIds({ prompt, promptTokens }: Group, plan: PlanCase): Int32Array {
  const alphabet = Math.max(2, plan.model.vocabSize - FIRST_PROMPT_TOKEN);
  const ids = Int32Array.from({ length: promptTokens }, (_, i) => FIRST_PROMPT_TOKEN + (i % alphabet));
  let rest = prompt;
  for (let most = plan.prompts, i = plan.sharedPrefixTokens; most > 0 && i < promptTokens; i += 1) {
    ids[i] = FIRST_PROMPT_TOKEN + (rest % alphabet);
    rest = Math.floor(rest / alphabet);
    most = Math.floor(most / alphabet);
  }
  return ids;
}

/** Ids that the simulated host samples, and that stand in prompts. */
export const EOS_TOKEN = 0;
export const FIRST_OUTPUT_TOKEN = 1;
const FIRST_PROMPT_TOKEN = 1;
