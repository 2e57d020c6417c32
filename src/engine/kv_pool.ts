// How many KV blocks the pool has.
//
// One token takes layers x 2 x key/value heads x head_dim numbers: of 4 bytes in float32, of 2 else. On a GPU a head takes 64 or 128
// numbers, whatever its own size. `kvCacheBlocks` says how many blocks there are, else `kvCacheBytes` does; never more than maxNumSeqs
// sequences of maxModelLen tokens can hold. With neither, the CPU gets 2 GiB or a quarter of the machine's memory, whichever is less
// (pages that no token has touched cost nothing), and on a GPU the host chooses: what gpuMemoryUtilization leaves beside the weights.

import { totalmem } from 'node:os';
import { KadenzError } from '../errors.js';
import type { DeviceKind } from '../host/device.js';
import type { HostDtype } from '../host/host.js';
import type { ModelConfig } from '../model/index.js';
import { count } from './numbers.js';

const KV_CACHE_BYTES_DEFAULT = 2 * 1024 ** 3;

/** The most that a core can be configured with. */
const MOST_BLOCKS = 2 ** 24;

export interface PoolShape {
  config: ModelConfig;
  kind: DeviceKind;
  dtype: HostDtype;
  blockSize: number;
  maxNumSeqs: number;
  maxModelLen: number;
}

export interface KvPool {
  /** 0: the host chooses. */
  numBlocks: number;
  /** More are of no use. */
  mostBlocks: number;
}

export interface PoolOptions {
  kvCacheBlocks?: number | undefined;
  kvCacheBytes?: number | undefined;
}

export function sizeKvPool({ kvCacheBlocks, kvCacheBytes }: PoolOptions, shape: PoolShape): KvPool {
  const { kind, blockSize, maxNumSeqs, maxModelLen } = shape;
  const mostBlocks = Math.min(maxNumSeqs * Math.ceil(maxModelLen / blockSize), MOST_BLOCKS);
  if (kvCacheBlocks !== undefined) {
    const numBlocks = count(kvCacheBlocks, 'kvCacheBlocks', 1);
    return { numBlocks, mostBlocks: numBlocks };
  }
  if (kvCacheBytes === undefined && kind === 'cuda') return { numBlocks: 0, mostBlocks };
  const budget = kvCacheBytes ?? Math.min(KV_CACHE_BYTES_DEFAULT, totalmem() / 4);
  return { numBlocks: Math.min(blocksOfBudget(budget, shape), mostBlocks), mostBlocks };
}

/** Bytes that one token takes in the KV cache. */
export function kvBytesPerToken({
  config,
  kind,
  dtype,
}: Pick<PoolShape, 'config' | 'kind' | 'dtype'>): number {
  const { numLayers, numKeyValueHeads, headDim } = config;
  const paddedHeadDim = kind === 'cpu' ? headDim : Math.ceil(headDim / 64) * 64;
  return numLayers * 2 * numKeyValueHeads * paddedHeadDim * (dtype === 'float32' ? 4 : 2);
}

function blocksOfBudget(budget: number, shape: PoolShape): number {
  if (typeof budget !== 'number' || !(budget > 0)) {
    throw new KadenzError('invalid_argument', `kvCacheBytes is ${budget}; it must be greater than 0.`, {
      value: budget,
    });
  }
  const blockBytes = kvBytesPerToken(shape) * shape.blockSize;
  const affordable = Math.floor(budget / blockBytes);
  if (affordable >= 1) return affordable;
  const sentence = `kvCacheBytes is ${budget}, but one block of this model's KV cache takes ${blockBytes}; raise it.`;
  throw new KadenzError('invalid_argument', sentence, { value: budget, limit: blockBytes });
}
