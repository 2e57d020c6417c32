// The KV pool of the fast model: counts of blocks, no tables.
//
// A block is held, or unheld with its content still cached, or free. As in the core, free blocks are given out first, then those that have
// been unheld the longest; a preempted sequence finds again what has not been given out to others meanwhile.

/** Whoever may come back for blocks that it gave up. */
export interface BlockOwner {
  /** Of its blocks, still in the cache and held by nobody. */
  cachedBlocks: number;
}

export class FastPool {
  readonly numBlocks: number;
  #free: number;
  #unheld = 0;
  /** Oldest first; `owner` null: nobody will come back for them. */
  #entries: { owner: BlockOwner | null; blocks: number }[] = [];
  #firstEntry = 0;

  constructor(numBlocks: number) {
    this.numBlocks = numBlocks;
    this.#free = numBlocks;
  }

  /** What can be had: free, or held by nobody. */
  get available(): number {
    return this.#free + this.#unheld;
  }

  /** The caller has seen that so many are available. Fewer than none: a returning owner needs less than it found. */
  take(blocks: number): void {
    let missing = blocks - this.#free;
    this.#free = Math.max(0, -missing);
    while (missing > 0) {
      const entry = this.#entries[this.#firstEntry];
      if (entry === undefined) throw new Error(`the pool has ${missing} blocks less than were asked for`);
      const evicted = Math.min(missing, entry.blocks);
      missing -= evicted;
      this.#unheld -= evicted;
      entry.blocks -= evicted;
      if (entry.owner !== null) entry.owner.cachedBlocks -= evicted;
      if (entry.blocks === 0) this.#dropFirst();
    }
  }

  /** Given back; with an owner they wait for it. */
  giveBack(blocks: number, owner: BlockOwner | null): void {
    if (blocks <= 0) return;
    this.#unheld += blocks;
    if (owner !== null) owner.cachedBlocks += blocks;
    this.#entries.push({ owner, blocks });
  }

  /** The owner takes what is left of its blocks: how many those were. */
  reclaim(owner: BlockOwner): number {
    const { cachedBlocks } = owner;
    if (cachedBlocks === 0) return 0;
    for (let i = this.#firstEntry; i < this.#entries.length; i += 1) {
      const entry = this.#entries[i]!;
      if (entry.owner !== owner) continue;
      this.#unheld -= entry.blocks;
      entry.blocks = 0;
      entry.owner = null;
    }
    owner.cachedBlocks = 0;
    return cachedBlocks;
  }

  #dropFirst(): void {
    this.#firstEntry += 1;
    if (this.#firstEntry < 1024) return;
    this.#entries = this.#entries.slice(this.#firstEntry);
    this.#firstEntry = 0;
  }
}
