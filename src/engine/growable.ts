// Typed arrays that grow by doubling: what a sample collects, token by token, without an object per token.

type Numbers = Int32Array | Uint32Array | Float32Array;

export class Growable<T extends Numbers> {
  #items: T;
  #length = 0;
  readonly #make: (length: number) => T;

  constructor(make: (length: number) => T, capacity = 16) {
    this.#make = make;
    this.#items = make(capacity);
  }

  get length(): number {
    return this.#length;
  }

  push(value: number): void {
    if (this.#length === this.#items.length) {
      const larger = this.#make(this.#items.length * 2);
      larger.set(this.#items);
      this.#items = larger;
    }
    this.#items[this.#length] = value;
    this.#length += 1;
  }

  /** A copy of the items from `begin` on. */
  copy(begin = 0): T {
    return this.#items.slice(begin, this.#length) as T;
  }
}

export const growableInt32 = () => new Growable((length) => new Int32Array(length));
export const growableUint32 = () => new Growable((length) => new Uint32Array(length));
export const growableFloat32 = () => new Growable((length) => new Float32Array(length));
