// The oracle in place of a model: a token is a hash of the request's seed, the sample, the position and every token
// before it.
//
// It is computed twice. The simulated host reads it off its KV blocks, and knows no more than a kernel does; the
// checkers compute it from the request and from what was delivered. The KV of a position is a hash of the KV before
// it, the token and the weights that computed it; a sample also folds in the sum over every full block below. So a
// mix-up of block, position, row, order, weights or adapter, and a block that was overwritten while it was in use,
// gives another token, or at least another log-prob.

/** One 32-bit step of a hash. */
export function mix(hash: number, value: number): number {
  let mixed = Math.imul(hash ^ value, 0x9e3779b1);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x85ebca6b);
  return mixed ^ (mixed >>> 13);
}

/**
 * What the KV of position 0 follows. `generation` counts the loads of adapters under this number: another load is
 * another adapter.
 */
export function rootOf(adapter: number, generation: number, cacheSalt: number): number {
  return mix(mix(mix(0x6b61646e, adapter), generation), cacheSalt);
}

/** The KV of a position. */
export function kvOf(before: number, tokenId: number, weightVersion: number): number {
  return mix(mix(before, tokenId), weightVersion);
}

/** Folds the sum over a full block into that of the blocks before it. */
export function foldBlock(fold: number, blockSum: number): number {
  return mix(fold, blockSum);
}

export const EMPTY_FOLD = 0x666f6c64;

/** All that a sample reads: the KV of its row's position and the fold of the full blocks up to it. */
export function readingOf(kv: number, fold: number): number {
  return mix(kv, fold);
}

export interface SampleName {
  seed: number;
  sample: number;
  /** Where the new token will stand. */
  position: number;
}

/** 32 bits that the token and its log-prob are made of. */
export function drawOf(reading: number, { seed, sample, position }: SampleName): number {
  return mix(mix(mix(reading, seed), sample), position);
}

export interface Vocabulary {
  size: number;
  eosTokenIds: readonly number[];
}

/** The sampled token. `isLast`: the sample has reached the length that its workload drew, and the oracle says EOS. */
export function tokenOf(draw: number, { size, eosTokenIds }: Vocabulary, isLast: boolean): number {
  const bits = draw >>> 0;
  if (isLast && eosTokenIds.length > 0) return eosTokenIds[bits % eosTokenIds.length]!;
  return bits % size;
}

/** A float that tells almost all draws apart, so that a small vocabulary hides nothing. */
export function logprobOf(draw: number): number {
  return -(draw >>> 8) / 2 ** 20;
}
