// The prefix cache: full blocks of KV, found again by the tokens that lead to them.
//
// A block's key is its tokens, its parent and its root. The root is (weight version, adapter, cache salt); the parent is named by a
// serial number that is given at registration and never again, so a hit proves the whole prefix: the hash only finds candidates, the
// tokens, the parent's serial and the root are compared. A new weight version forgets everything, so versions need no field.
// Only committed blocks are registered: what a failed step would have written can't be hit.
import { appendCached, Block, blockAt, popFree, pushFree, removeCached } from './block_pool';
import { CoreState } from './core_state';
import { mix } from './digest';
import { ensure } from './errors';
import { Request } from './request';
import { Sequence, tokensOf } from './sequence';

export function rootHash(c: CoreState, request: Request): u64 {
  return mix(mix(c.weightVersion, <u64>request.adapter), request.cacheSalt);
}

function chain(c: CoreState, parentHash: u64, tokens: usize): u64 {
  let hash = parentHash;
  const end = tokens + ((<usize>c.blockSize) << 2);
  for (let at = tokens; at < end; at += 8) hash = mix(hash, load<u64>(at));
  return hash;
}

function tokensOfBlock(c: CoreState, index: u32): usize {
  return c.blockTokens + ((<usize>index) << (c.blockShift + 2));
}

/** The registered block of this key, as index + 1, or 0. */
function find(c: CoreState, hash: u64, parentSerial: u64, request: Request, tokens: usize): u32 {
  let slot = <u32>(hash >> 32) & c.blockMapMask;
  let found = load<u32>(c.blockMap + ((<usize>slot) << 2));
  while (found != 0 && !isBlockOf(c, found - 1, hash, parentSerial, request, tokens)) {
    slot = (slot + 1) & c.blockMapMask;
    found = load<u32>(c.blockMap + ((<usize>slot) << 2));
  }
  return found;
}

function isBlockOf(
  c: CoreState,
  index: u32,
  hash: u64,
  parentSerial: u64,
  request: Request,
  tokens: usize,
): bool {
  const block = blockAt(c, index);
  return (
    block.hash == hash &&
    block.parentSerial == parentSerial &&
    block.salt == request.cacheSalt &&
    block.adapter == request.adapter &&
    memory.compare(tokensOfBlock(c, index), tokens, (<usize>c.blockSize) << 2) == 0
  );
}

/**
 * Finds the longest cached prefix of at most `maxBlocks` full blocks of `tokens` and leaves the blocks in `c.hits`.
 * Gives their number. Changes nothing else.
 */
export function lookUpPrefix(c: CoreState, request: Request, tokens: usize, maxBlocks: u32): u32 {
  let hash = rootHash(c, request);
  let serial: u64 = 0;
  let hits: u32 = 0;
  while (hits < maxBlocks) {
    const at = tokens + ((<usize>hits) << (c.blockShift + 2));
    hash = chain(c, hash, at);
    const found = find(c, hash, serial, request, at);
    if (found == 0) break;
    serial = blockAt(c, found - 1).serial;
    store<u32>(c.hits + (hits++ << 2), found - 1);
  }
  return hits;
}

// What a step committed is registered in rounds: the sequences with a full block are listed with its hash, then memory that lies
// anywhere is read for all of them at once (misses that do not wait for each other), then each block is compared and written.

/** Lists the sequence for `registerListed` if it has full blocks below `end` that are not registered. */
export function listFullBlocks(c: CoreState, sequence: Sequence, end: u32): void {
  if (!c.enablePrefixCache || sequence.skipsCache || sequence.numRegistered >= end >> c.blockShift) return;
  const at = c.numListed++ << 2;
  store<u32>(c.listedSequences + at, <u32>changetype<usize>(sequence));
  store<u32>(c.listedEnds + at, end);
  store<u64>(c.listedHashes + (at << 1), hashNextBlock(c, sequence));
}

export function registerListed(c: CoreState): void {
  touchListed(c);
  for (let index: u32 = 0; index < c.numListed; index++) {
    const at = (<usize>index) << 2;
    const sequence = changetype<Sequence>(<usize>load<u32>(c.listedSequences + at));
    const full = load<u32>(c.listedEnds + at) >> c.blockShift;
    registerNextBlock(c, sequence, load<u64>(c.listedHashes + (at << 1)));
    while (sequence.numRegistered < full) registerNextBlock(c, sequence, hashNextBlock(c, sequence));
  }
  c.numListed = 0;
}

/** Reads the map's entries for the listed hashes. The values are kept only so that the reads are. */
function touchListed(c: CoreState): void {
  const map = c.blockMap;
  const mask = c.blockMapMask;
  const hashes = c.listedHashes;
  const entries = c.listedEntries;
  const end = (<usize>c.numListed) << 2;
  for (let at: usize = 0; at < end; at += 4) {
    const slot = <u32>(load<u64>(hashes + (at << 1)) >> 32) & mask;
    store<u32>(entries + at, load<u32>(map + ((<usize>slot) << 2)));
  }
}

function hashNextBlock(c: CoreState, sequence: Sequence): u64 {
  const index = sequence.numRegistered;
  const parentHash = index == 0 ? rootHash(c, changetype<Request>(sequence.request)) : sequence.chainHash;
  return chain(c, parentHash, tokensOf(sequence) + ((<usize>index) << (c.blockShift + 2)));
}

/** Registers the sequence's next full block, whose tokens are all known and committed, under its hash. */
function registerNextBlock(c: CoreState, sequence: Sequence, hash: u64): void {
  const request = changetype<Request>(sequence.request);
  const index = sequence.numRegistered;
  const tokens = tokensOf(sequence) + ((<usize>index) << (c.blockShift + 2));
  const parentSerial = index == 0 ? 0 : sequence.chainSerial;
  sequence.chainHash = hash;
  sequence.numRegistered++;
  const found = find(c, hash, parentSerial, request, tokens);
  if (found != 0) {
    sequence.chainSerial = blockAt(c, found - 1).serial;
    return;
  }
  const blockIndex = load<u32>(sequence.blockTable + ((<usize>index) << 2));
  const block = blockAt(c, blockIndex);
  // A block that stands registered under a key whose parent is gone keeps that key; its content is the same.
  if (block.registered) {
    sequence.chainSerial = block.serial;
    return;
  }
  block.hash = hash;
  block.serial = ++c.blockSerials;
  block.parentSerial = parentSerial;
  block.salt = request.cacheSalt;
  block.adapter = request.adapter;
  block.registered = true;
  memory.copy(tokensOfBlock(c, blockIndex), tokens, (<usize>c.blockSize) << 2);
  sequence.chainSerial = block.serial;
  let slot = <u32>(hash >> 32) & c.blockMapMask;
  while (load<u32>(c.blockMap + ((<usize>slot) << 2)) != 0) slot = (slot + 1) & c.blockMapMask;
  store<u32>(c.blockMap + ((<usize>slot) << 2), blockIndex + 1);
}

/** Takes a block off the map. Linear probing without tombstones, as in request.ts. */
function unregister(c: CoreState, blockIndex: u32): void {
  const mask = c.blockMapMask;
  let hole = <u32>(blockAt(c, blockIndex).hash >> 32) & mask;
  while (load<u32>(c.blockMap + ((<usize>hole) << 2)) != blockIndex + 1) {
    ensure(load<u32>(c.blockMap + ((<usize>hole) << 2)) != 0, 'a registered block is in the map');
    hole = (hole + 1) & mask;
  }
  let next = (hole + 1) & mask;
  for (;;) {
    const other = load<u32>(c.blockMap + ((<usize>next) << 2));
    if (other == 0) break;
    const home = <u32>(blockAt(c, other - 1).hash >> 32) & mask;
    if (((next - home) & mask) >= ((next - hole) & mask)) {
      store<u32>(c.blockMap + ((<usize>hole) << 2), other);
      hole = next;
    }
    next = (next + 1) & mask;
  }
  store<u32>(c.blockMap + ((<usize>hole) << 2), 0);
  blockAt(c, blockIndex).registered = false;
}

/** A block with one owner and no meaning. The caller has made sure that one is available. */
export function takeBlock(c: CoreState): u32 {
  let index: u32;
  if (c.numFreeBlocks > 0) {
    index = popFree(c);
  } else {
    ensure(c.firstCached != 0, 'a block is available when one is taken');
    index = c.firstCached - 1;
    removeCached(c, index);
    unregister(c, index);
  }
  blockAt(c, index).owners = 1;
  return index;
}

/** Nothing can be hit any more. Blocks that sequences hold stay theirs. */
export function forgetPrefixes(c: CoreState): void {
  memory.fill(c.blockMap, 0, (<usize>(c.blockMapMask + 1)) << 2);
  while (c.firstCached != 0) {
    const index = c.firstCached - 1;
    removeCached(c, index);
    pushFree(c, index);
  }
  for (let index: u32 = 0; index < c.numBlocks; index++) blockAt(c, index).registered = false;
}
