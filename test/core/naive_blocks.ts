// The naive model's pool of KV blocks and its prefix cache, by sets and strings: a block's owners are a Set of sequences, and a cached
// block is found by its parent's serial number and its tokens written out, so nothing is hashed and nothing can collide.
//
// A block is free (no owner, no key), held (owners) or cached (no owner, a key). Free blocks are given out first, then the block that
// has been cached longest is evicted.
import type { NaiveBlock, NaiveSequence } from './naive_types.js';

export class NaiveBlocks {
  /** Cached blocks, the one that lost its last owner first at the front. */
  cached: NaiveBlock[] = [];
  held = new Set<NaiveBlock>();
  byKey = new Map<string, NaiveBlock>();
  private nextId = 0;
  private nextSerial = 1;

  constructor(readonly numBlocks: number) {}

  get numFree(): number {
    return this.numBlocks - this.held.size - this.cached.length;
  }

  /** Blocks that could be given out now. */
  get numAvailable(): number {
    return this.numBlocks - this.held.size;
  }

  allocate(owner: NaiveSequence): NaiveBlock {
    if (this.numFree === 0) {
      const evicted = this.cached.shift();
      if (!evicted) throw new Error('naive model: allocation from an empty pool');
      this.byKey.delete(evicted.key!);
      evicted.key = null;
    }
    const block: NaiveBlock = { id: this.nextId++, owners: new Set([owner]), key: null, serial: 0 };
    this.held.add(block);
    return block;
  }

  share(block: NaiveBlock, owner: NaiveSequence): void {
    if (block.owners.size === 0) {
      this.cached.splice(this.cached.indexOf(block), 1);
      this.held.add(block);
    }
    block.owners.add(owner);
  }

  release(block: NaiveBlock, owner: NaiveSequence): void {
    if (!block.owners.delete(owner)) throw new Error('naive model: released by one who does not own it');
    if (block.owners.size > 0) return;
    this.held.delete(block);
    if (block.key !== null) this.cached.push(block);
  }

  /** Last block first, so that a chain is evicted from its end. */
  releaseAll(owner: NaiveSequence): void {
    for (const block of owner.blocks.reverse()) this.release(block, owner);
    owner.blocks = [];
  }

  /**
   * Puts the block's content into the cache and returns its serial there. What is there already stays with its first block; a block
   * that is there under another key (its parent was evicted and came anew) keeps that one.
   */
  register(block: NaiveBlock, key: string): number {
    const first = this.byKey.get(key);
    if (first) return first.serial;
    if (block.key !== null) return block.serial;
    block.key = key;
    block.serial = this.nextSerial++;
    this.byKey.set(key, block);
    return block.serial;
  }

  /** The blocks of the longest cached prefix, of at most `maxBlocks` whole blocks. */
  lookup(keyOf: (index: number, parentSerial: number) => string, maxBlocks: number): NaiveBlock[] {
    const hits: NaiveBlock[] = [];
    for (let index = 0; index < maxBlocks; index++) {
      const block = this.byKey.get(keyOf(index, hits.at(-1)?.serial ?? 0));
      if (!block) break;
      hits.push(block);
    }
    return hits;
  }

  forget(): void {
    for (const block of this.byKey.values()) block.key = null;
    this.byKey.clear();
    this.cached = [];
  }
}
