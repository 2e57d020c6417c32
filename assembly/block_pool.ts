// The KV blocks. Each is in one of three places, and free + cached + held = total:
//   free    nobody owns it and its content means nothing      (a stack)
//   cached  nobody owns it, its content may be hit            (a list, oldest first; `lastUsed` counts upwards along it)
//   held    `owners` sequences have it in their table
// Taking a block prefers free ones, then evicts the oldest cached one.
import { CoreState } from './core_state';
import { ensure } from './errors';

@unmanaged
export class Block {
  // In the prefix cache (prefix_cache.ts), when `registered`.
  hash: u64;
  serial: u64;
  parentSerial: u64; // 0 = first block of its chain
  salt: u64;
  lastUsed: u64;
  adapter: u32;
  owners: u32;
  previous: u32; // in the cached list: index + 1
  next: u32;
  registered: bool;
  cached: bool;
}

export const BLOCK_BYTES: usize = (offsetof<Block>() + 7) & ~7;

export function blockAt(c: CoreState, index: u32): Block {
  return changetype<Block>(c.blocks + <usize>index * BLOCK_BYTES);
}

export function numAvailableBlocks(c: CoreState): u32 {
  return c.numFreeBlocks + c.numCachedBlocks;
}

export function pushFree(c: CoreState, index: u32): void {
  store<u32>(c.freeBlocks + (c.numFreeBlocks++ << 2), index);
}

export function popFree(c: CoreState): u32 {
  return load<u32>(c.freeBlocks + (--c.numFreeBlocks << 2));
}

export function appendCached(c: CoreState, index: u32): void {
  const block = blockAt(c, index);
  block.cached = true;
  block.lastUsed = ++c.blockUses;
  block.previous = c.lastCached;
  block.next = 0;
  if (c.lastCached != 0) blockAt(c, c.lastCached - 1).next = index + 1;
  else c.firstCached = index + 1;
  c.lastCached = index + 1;
  c.numCachedBlocks++;
}

export function removeCached(c: CoreState, index: u32): void {
  const block = blockAt(c, index);
  ensure(block.cached && block.owners == 0, 'a cached block has no owner');
  if (block.previous != 0) blockAt(c, block.previous - 1).next = block.next;
  else c.firstCached = block.next;
  if (block.next != 0) blockAt(c, block.next - 1).previous = block.previous;
  else c.lastCached = block.previous;
  block.cached = false;
  c.numCachedBlocks--;
}

/** One more owner: of a block that others hold, or of a cached one that is hit. */
export function shareBlock(c: CoreState, index: u32): void {
  const block = blockAt(c, index);
  if (block.owners == 0) removeCached(c, index);
  block.owners++;
}

/** One owner less. The last one leaves it to the cache when its content is registered there. */
export function releaseBlock(c: CoreState, index: u32): void {
  const block = blockAt(c, index);
  ensure(block.owners > 0, 'a block is released by an owner');
  if (--block.owners > 0) return;
  if (block.registered) appendCached(c, index);
  else pushFree(c, index);
}
