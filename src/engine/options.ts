// The options of an engine, and what they come to for a given model: the core's configuration and the host's.
//
// The KV cache. One token takes layers x 2 x key/value heads x head_dim numbers of 4 bytes (2 with dtype bfloat16). Unless
// kvCacheBlocks says otherwise, the pool gets kvCacheBytes, by default 2 GiB or a quarter of the machine's memory, whichever is less,
// but never more blocks than maxNumSeqs sequences of maxModelLen tokens can hold. Pages of the pool that no token has touched cost no
// memory. maxModelLen is the model's own unless given, and at most what the whole pool holds.

import { availableParallelism, totalmem } from 'node:os';
import type { CoreConfig } from '../core/index.js';
import { KadenzError } from '../errors.js';
import type { LoadedModel, ModelConfig } from '../model/index.js';
import { checkRecordOptions, type RecordOptions } from './recording.js';
import { uint64 } from './request.js';

export interface EngineOptions {
  /** A Hugging Face model directory. */
  model: string;
  /** Default 'cpu', the only one there is. */
  device?: 'cpu';
  /** Of weights and KV cache; sums are always float32. Default 'auto': bfloat16 if the checkpoint is, else float32. */
  dtype?: 'auto' | 'float32' | 'bfloat16';
  /** Sequences running at once. Default 256. */
  maxNumSeqs?: number;
  /** Tokens computed in one step. Default 2048. */
  maxNumBatchedTokens?: number;
  /** Prompt and output of one sequence together. Default: the model's, as far as the KV cache holds it. */
  maxModelLen?: number;
  /** Requests that the scheduler holds at once; further ones queue in the engine. Default 1024. */
  maxNumRequests?: number;
  /** KV blocks of the pool. Default: from kvCacheBytes. */
  kvCacheBlocks?: number;
  /** Memory for the KV cache, unless kvCacheBlocks is given. Default: 2 GiB, or a quarter of the machine's memory if that is less. */
  kvCacheBytes?: number;
  /** Tokens in a KV block: a power of two from 8 to 64. Default 16. */
  blockSize?: number;
  /** Default true. */
  enablePrefixCaching?: boolean;
  /** Most prompt tokens of one sequence in one step. Default 0: no cap. */
  longPrefillTokenThreshold?: number;
  /** Most samples of one request. Default 1024. */
  maxN?: number;
  /** Most log-probs beside a token. Default 20. */
  maxLogprobs?: number;
  /** Threads of the host. Default: the processors that this process may use. */
  numThreads?: number;
  /** Requests without a seed get theirs from it. Default 0. */
  seed?: number | bigint;
  /** Record the run to this trace (docs/trace-format.md); replay it with `kadenz replay`. Default: not recorded. */
  record?: string | RecordOptions;
  /** Is told when the engine starts, ends or dies. pino and console both fit. */
  logger?: EngineLogger;
}

export interface EngineLogger {
  info(message: string): void;
  error(message: string): void;
}

/** What the host is opened with; a structured clone of it goes to the worker. */
export interface HostOptions {
  model: LoadedModel;
  dtype: 'float32' | 'bfloat16';
  numBlocks: number;
  blockSize: number;
  maxNumSeqs: number;
  maxModelLen: number;
  maxNumBatchedTokens: number;
  numThreads: number;
}

export interface EngineSetup {
  coreConfig: CoreConfig & { maxModelLen: number; maxNumRequests: number; maxN: number };
  hostOptions: HostOptions;
  seed: bigint;
}

const OPTION_NAMES: ReadonlySet<string> = new Set([
  ...[
    'model',
    'device',
    'dtype',
    'maxNumSeqs',
    'maxNumBatchedTokens',
    'maxModelLen',
    'maxNumRequests',
    'kvCacheBlocks',
  ],
  ...['kvCacheBytes', 'blockSize', 'enablePrefixCaching', 'longPrefillTokenThreshold', 'maxN', 'maxLogprobs'],
  ...['numThreads', 'seed', 'record', 'logger'],
]);

const KV_CACHE_BYTES_DEFAULT = 2 * 1024 ** 3;
const UINT32_MAX = 2 ** 32 - 1;

/** Refuses unknown names and wrong kinds, before anything is loaded. */
export function checkEngineOptions(options: EngineOptions): void {
  for (const name of Object.keys(options)) {
    if (OPTION_NAMES.has(name)) continue;
    const sentence = `An engine has no option '${name}'; it has ${[...OPTION_NAMES].join(', ')}.`;
    throw new KadenzError('unknown_option', sentence, { value: name });
  }
  if (typeof options.model !== 'string' || options.model === '') {
    throw new KadenzError(
      'invalid_argument',
      'An engine needs a model: the path of a Hugging Face model directory.',
    );
  }
  if (options.record !== undefined) checkRecordOptions(options.record);
  const { device = 'cpu', dtype = 'auto' } = options;
  if (device !== 'cpu') {
    throw new KadenzError('unsupported_device', `device is '${device}'; this version has 'cpu'.`, {
      value: device,
    });
  }
  if (!['auto', 'float32', 'bfloat16'].includes(dtype)) {
    const sentence = `dtype is '${dtype}'; it must be 'auto', 'float32' or 'bfloat16'.`;
    throw new KadenzError('invalid_argument', sentence, { value: dtype });
  }
}

export function resolveEngineOptions(options: EngineOptions, model: LoadedModel): EngineSetup {
  const { config } = model;
  const dtype = resolveDtype(options.dtype ?? 'auto', model);
  const blockSize = count(options.blockSize ?? 16, 'blockSize', 1);
  const maxNumSeqs = count(options.maxNumSeqs ?? 256, 'maxNumSeqs', 1);
  const wantedModelLen = count(options.maxModelLen ?? config.maxPositionEmbeddings, 'maxModelLen', 1);
  if (wantedModelLen > config.maxPositionEmbeddings) {
    throw new KadenzError(
      'invalid_argument',
      `maxModelLen is ${wantedModelLen}; this model was made for at most ${config.maxPositionEmbeddings} positions.`,
      { value: wantedModelLen, limit: config.maxPositionEmbeddings },
    );
  }
  const numBlocks =
    options.kvCacheBlocks === undefined
      ? blocksOfBudget(options, { config, dtype, blockSize, maxNumSeqs, maxModelLen: wantedModelLen })
      : count(options.kvCacheBlocks, 'kvCacheBlocks', 1);
  const maxModelLen =
    options.maxModelLen === undefined ? Math.min(wantedModelLen, numBlocks * blockSize) : wantedModelLen;
  const maxNumBatchedTokens = count(options.maxNumBatchedTokens ?? 2048, 'maxNumBatchedTokens', 1);
  return {
    coreConfig: {
      maxNumSeqs,
      maxNumBatchedTokens,
      maxModelLen,
      numBlocks,
      blockSize,
      vocabSize: config.vocabSize,
      maxNumRequests: count(options.maxNumRequests ?? 1024, 'maxNumRequests', 1),
      longPrefillTokenThreshold: count(
        options.longPrefillTokenThreshold ?? 0,
        'longPrefillTokenThreshold',
        0,
      ),
      enablePrefixCache: options.enablePrefixCaching ?? true,
      maxStepsInFlight: 2,
      maxN: count(options.maxN ?? 1024, 'maxN', 1),
      maxLogprobs: count(options.maxLogprobs ?? 20, 'maxLogprobs', 0),
      eosTokenIds: model.eosTokenIds,
    },
    hostOptions: {
      model,
      dtype,
      numBlocks,
      blockSize,
      maxNumSeqs,
      maxModelLen,
      maxNumBatchedTokens,
      numThreads: count(options.numThreads ?? availableParallelism(), 'numThreads', 1),
    },
    seed: uint64(options.seed ?? 0, 'seed'),
  };
}

/** Bytes that one token takes in the KV cache. */
export function kvBytesPerToken(config: ModelConfig, dtype: 'float32' | 'bfloat16'): number {
  return config.numLayers * 2 * config.numKeyValueHeads * config.headDim * (dtype === 'bfloat16' ? 2 : 4);
}

interface PoolShape {
  config: ModelConfig;
  dtype: 'float32' | 'bfloat16';
  blockSize: number;
  maxNumSeqs: number;
  maxModelLen: number;
}

function blocksOfBudget(
  options: EngineOptions,
  { config, dtype, blockSize, maxNumSeqs, maxModelLen }: PoolShape,
): number {
  const budget = options.kvCacheBytes ?? Math.min(KV_CACHE_BYTES_DEFAULT, totalmem() / 4);
  if (typeof budget !== 'number' || !(budget > 0)) {
    throw new KadenzError('invalid_argument', `kvCacheBytes is ${budget}; it must be greater than 0.`, {
      value: budget,
    });
  }
  const blockBytes = kvBytesPerToken(config, dtype) * blockSize;
  const affordable = Math.floor(budget / blockBytes);
  if (affordable < 1) {
    const sentence = `kvCacheBytes is ${budget}, but one block of this model's KV cache takes ${blockBytes}; raise it.`;
    throw new KadenzError('invalid_argument', sentence, { value: budget, limit: blockBytes });
  }
  const usable = maxNumSeqs * Math.ceil(maxModelLen / blockSize);
  return Math.min(affordable, usable, UINT32_MAX);
}

function resolveDtype(dtype: 'auto' | 'float32' | 'bfloat16', model: LoadedModel): 'float32' | 'bfloat16' {
  if (dtype !== 'auto') return dtype;
  return model.tensors.some((tensor) => tensor.dtype === 'BF16') ? 'bfloat16' : 'float32';
}

function count(value: unknown, name: string, least: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= UINT32_MAX)
    return value;
  const sentence = `${name} is ${String(value)}; it must be a whole number from ${least} to ${UINT32_MAX}.`;
  throw new KadenzError('invalid_argument', sentence, { value, limit: UINT32_MAX });
}
