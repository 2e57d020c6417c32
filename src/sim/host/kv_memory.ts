// The simulated device's KV: one 32-bit hash per position of each block, and beside them their sum per block, kept up
// to date with every write, so that reading a whole block costs one word.
//
// What was never written, was released or comes from a failed step is poison: a value that no position of any
// sequence has.

import { mix } from './oracle.js';

export class KvMemory {
  readonly blockSize: number;
  readonly #values: Int32Array;
  readonly #sums: Int32Array;
  #poisonings = 0;

  constructor(numBlocks: number, blockSize: number) {
    this.blockSize = blockSize;
    this.#values = new Int32Array(numBlocks * blockSize);
    this.#sums = new Int32Array(numBlocks);
    this.poisonAll();
  }

  read(address: number): number {
    return this.#values[address]!;
  }

  /** The sum over a block's positions. */
  sum(block: number): number {
    return this.#sums[block]!;
  }

  write(address: number, value: number): void {
    const block = Math.floor(address / this.blockSize);
    this.#sums[block] = (this.#sums[block]! + value - this.#values[address]!) | 0;
    this.#values[address] = value;
  }

  copyBlock(source: number, target: number): void {
    const { blockSize } = this;
    this.#values.copyWithin(target * blockSize, source * blockSize, (source + 1) * blockSize);
    this.#sums[target] = this.#sums[source]!;
  }

  poison(address: number): void {
    this.#poisonings += 1;
    this.write(address, mix(0x706f6973, this.#poisonings));
  }

  poisonBlock(block: number): void {
    for (let offset = 0; offset < this.blockSize; offset++) this.poison(block * this.blockSize + offset);
  }

  poisonAll(): void {
    for (let address = 0; address < this.#values.length; address++) this.poison(address);
  }
}
