// The configuration of a core: its options, their defaults and what each may be.

import { KadenzError } from '../errors.js';
import type { Integers } from './flat.js';

/** The first command, given to `Core.create`. Units are tokens, blocks or bytes as the names say. */
export interface CoreConfig {
  /** Prompt and output of one sequence together, in tokens. */
  maxModelLen: number;
  /** KV blocks of the pool. */
  numBlocks: number;
  vocabSize: number;
  /** Tokens in a block, a power of two. Default 16. */
  blockSize?: number;
  /** Sequences running at most. Default 256. */
  maxNumSeqs?: number;
  /** Token budget of one step. Default 8192. */
  maxNumBatchedTokens?: number;
  /** Requests held at once, waiting or running. Default 4096. */
  maxNumRequests?: number;
  /** Most prompt tokens of one sequence in one step; 0, the default, is no cap. */
  longPrefillTokenThreshold?: number;
  /** Default true. */
  enablePrefixCache?: boolean;
  /** 2, the default: a step may be planned while the one before is executed. 1: never. */
  maxStepsInFlight?: number;
  /** Most samples of one request. Default 1024. */
  maxN?: number;
  /** Most log-probs beside a token. Default 20. */
  maxLogprobs?: number;
  /** Memory for the token ids of waiting and running requests; 0, the default, lets the core choose. */
  tokenHeapBytes?: number;
  /** Ids that end a sequence unless it ignores them. Default none. */
  eosTokenIds?: Integers;
}

export type ResolvedCoreConfig = Required<CoreConfig>;

type CountName = Exclude<keyof CoreConfig, 'enablePrefixCache' | 'eosTokenIds'>;

/** Least and most of each number, as assembly/configure.ts has them. Where memory ends first, the core says so. */
const RANGES: Readonly<Record<CountName, readonly [number, number]>> = {
  maxModelLen: [1, 2 ** 24],
  numBlocks: [1, 2 ** 24],
  vocabSize: [1, 2 ** 24],
  blockSize: [2, 1024],
  maxNumSeqs: [1, 2 ** 16],
  maxNumBatchedTokens: [1, 2 ** 20],
  maxNumRequests: [1, 2 ** 20],
  longPrefillTokenThreshold: [0, 2 ** 32 - 1],
  maxStepsInFlight: [1, 2],
  maxN: [1, 2 ** 24],
  maxLogprobs: [0, 64],
  tokenHeapBytes: [0, 2 ** 32],
};
const MAX_EOS_TOKEN_IDS = 16;

function refuse(sentence: string, value: unknown, limit?: unknown): never {
  throw new KadenzError('invalid_config', sentence, { value, ...(limit === undefined ? {} : { limit }) });
}

/** Fills in the defaults and checks each value. A name that no option has is a mistake, not something to pass over. */
export function resolveCoreConfig(config: CoreConfig): ResolvedCoreConfig {
  const resolved: ResolvedCoreConfig = {
    maxModelLen: config.maxModelLen,
    numBlocks: config.numBlocks,
    vocabSize: config.vocabSize,
    blockSize: config.blockSize ?? 16,
    maxNumSeqs: config.maxNumSeqs ?? 256,
    maxNumBatchedTokens: config.maxNumBatchedTokens ?? 8192,
    maxNumRequests: config.maxNumRequests ?? 4096,
    longPrefillTokenThreshold: config.longPrefillTokenThreshold ?? 0,
    enablePrefixCache: config.enablePrefixCache ?? true,
    maxStepsInFlight: config.maxStepsInFlight ?? 2,
    maxN: config.maxN ?? 1024,
    maxLogprobs: config.maxLogprobs ?? 20,
    tokenHeapBytes: config.tokenHeapBytes ?? 0,
    eosTokenIds: config.eosTokenIds ?? [],
  };
  for (const name of Object.keys(config)) {
    if (!Object.hasOwn(resolved, name)) {
      refuse(`A core has no option '${name}'; it has ${Object.keys(resolved).join(', ')}.`, name);
    }
  }
  for (const [name, [least, most]] of Object.entries(RANGES)) {
    const value: unknown = resolved[name as CountName];
    if (Number.isInteger(value) && (value as number) >= least && (value as number) <= most) continue;
    refuse(`${name} is ${String(value)}; it must be an integer from ${least} to ${most}.`, value, most);
  }
  const { blockSize, enablePrefixCache, eosTokenIds, vocabSize } = resolved;
  if (!Number.isInteger(Math.log2(blockSize)))
    refuse(`blockSize is ${blockSize}; it must be a power of two.`, blockSize);
  if (typeof enablePrefixCache !== 'boolean') {
    refuse(`enablePrefixCache is ${String(enablePrefixCache)}; it must be true or false.`, enablePrefixCache);
  }
  if (eosTokenIds.length > MAX_EOS_TOKEN_IDS) {
    refuse(
      `eosTokenIds has ${eosTokenIds.length} entries; at most ${MAX_EOS_TOKEN_IDS} can be given.`,
      eosTokenIds.length,
      MAX_EOS_TOKEN_IDS,
    );
  }
  for (const token of eosTokenIds) {
    if (Number.isInteger(token) && token >= 0 && token < vocabSize) continue;
    refuse(
      `eosTokenIds holds ${token}; token ids are integers from 0 to ${vocabSize - 1}.`,
      token,
      vocabSize - 1,
    );
  }
  return resolved;
}
