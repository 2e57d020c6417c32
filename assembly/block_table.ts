// A sequence's block table: entry i holds the positions [i * block_size, (i + 1) * block_size). The host has a copy of it per slot,
// kept up to date by the table changes of each plan.
import { blockAt, releaseBlock, shareBlock } from './block_pool';
import { CoreState } from './core_state';
import { planCopy, planTableChange } from './plan';
import { takeBlock } from './prefix_cache';
import { Sequence } from './sequence';

export function blockOf(sequence: Sequence, index: u32): u32 {
  return load<u32>(sequence.blockTable + ((<usize>index) << 2));
}

export function blocksFor(c: CoreState, tokens: u32): u32 {
  return (tokens + c.blockSize - 1) >> c.blockShift;
}

function setEntry(c: CoreState, sequence: Sequence, index: u32, block: u32): void {
  store<u32>(sequence.blockTable + ((<usize>index) << 2), block);
  planTableChange(c, sequence.slot, index, block);
}

/** The partial block that the next position falls into has other owners too: it must be copied before it is written. */
export function mustCopy(c: CoreState, sequence: Sequence): bool {
  if (!sequence.sharesLastBlock) return false;
  const index = sequence.computed >> c.blockShift;
  return index < sequence.numBlocks && blockAt(c, blockOf(sequence, index)).owners > 1;
}

/** Gives the sequence blocks for its first `end` positions; copies the partial block when it is shared. Blocks must be available. */
export function extendTable(c: CoreState, sequence: Sequence, end: u32): void {
  if (mustCopy(c, sequence)) {
    const index = sequence.computed >> c.blockShift;
    const shared = blockOf(sequence, index);
    const own = takeBlock(c);
    releaseBlock(c, shared);
    setEntry(c, sequence, index, own);
    planCopy(c, shared, own);
  }
  sequence.sharesLastBlock = false;
  const wanted = blocksFor(c, end);
  while (sequence.numBlocks < wanted) setEntry(c, sequence, sequence.numBlocks++, takeBlock(c));
}

/** Appends a block that has other owners or is cached. */
export function appendShared(c: CoreState, sequence: Sequence, block: u32): void {
  shareBlock(c, block);
  setEntry(c, sequence, sequence.numBlocks++, block);
}

/** Last block first, so that the cache loses the end of a prefix before its beginning. */
export function releaseTable(c: CoreState, sequence: Sequence): void {
  while (sequence.numBlocks > 0) releaseBlock(c, blockOf(sequence, --sequence.numBlocks));
}
