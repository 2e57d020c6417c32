// What a run draws before it begins: the core's configuration, small enough that 500 steps see requests live and die.

import { type ResolvedCoreConfig, resolveCoreConfig } from '../core/config.js';
import type { Random } from './random.js';

export interface RunConfig {
  core: ResolvedCoreConfig;
  /** Priorities are drawn from [-spread, spread]. */
  prioritySpread: number;
  /** Adapters loaded at the beginning. */
  numAdapters: number;
  /** Prefix-cache salts in use. */
  numSalts: number;
  /** Commands that come while a step runs are applied before its result is committed. */
  appliesInFlight: boolean;
}

/** @param hostile small pools and small heaps for token ids may be drawn too */
export function drawRunConfig(random: Random, hostile: boolean): RunConfig {
  const blockSize = random.pick([4, 8, 8, 16, 16, 32]);
  const maxModelLen = random.between(40, 320);
  const longestInBlocks = Math.ceil(maxModelLen / blockSize);
  const isSmallPool = hostile && random.perMille(250);
  const numBlocks = isSmallPool
    ? random.between(2, longestInBlocks + 4)
    : Math.min(192, longestInBlocks * random.between(2, 8));
  const vocabSize = random.pick([random.between(4, 40), 1000, 151_936]);
  const maxNumSeqs = random.pick([1, 2, 4, 8, 8, 12, 16, 24]);
  const eosTokenIds = Array.from({ length: random.between(0, 2) }, (_, i) => (7 * i + 2) % vocabSize);
  return {
    core: resolveCoreConfig({
      blockSize,
      maxModelLen,
      numBlocks,
      vocabSize,
      maxNumSeqs,
      maxNumBatchedTokens: random.pick([random.between(8, 32), 64, 128, 256]),
      maxNumRequests: random.pick([random.between(3, 12), 32, 64]),
      longPrefillTokenThreshold: random.pick([0, 0, random.between(4, 64)]),
      enablePrefixCache: !random.perMille(150),
      maxStepsInFlight: random.perMille(300) ? 1 : 2,
      maxN: 16,
      maxLogprobs: 4,
      eosTokenIds: [...new Set(eosTokenIds)],
      tokenHeapBytes: hostile && random.perMille(60) ? random.between(8, 64) * 1024 : 0,
    }),
    prioritySpread: random.pick([0, 0, 1, 3]),
    numAdapters: random.pick([0, 0, 1, 3]),
    numSalts: random.pick([1, 1, 2]),
    appliesInFlight: random.perMille(500),
  };
}
