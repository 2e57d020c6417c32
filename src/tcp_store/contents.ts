// What a TCPStore server holds: values by key, queues by key, and who waits for a key. Knows no sockets.

import { MOST_VALUE_BYTES, ProtocolError } from './wire.js';

/** All values together; what a rendezvous holds is some kilobytes. */
const MOST_BYTES = 4 * MOST_VALUE_BYTES;

/** Waits for several keys; `missing` shrinks as they come. */
export interface Waiter {
  missing: Set<string>;
  over(): void;
}

export class StoreContents {
  readonly #values = new Map<string, Buffer>();
  readonly #queues = new Map<string, Buffer[]>();
  readonly #waiters = new Map<string, Set<Waiter>>();
  #bytes = 0;

  get(key: string): Buffer | undefined {
    return this.#values.get(key);
  }

  has(key: string): boolean {
    return this.#values.has(key) || this.queueLength(key) > 0;
  }

  keys(): string[] {
    return [...this.#values.keys()];
  }

  set(key: string, value: Buffer): void {
    const before = this.#values.get(key);
    this.#count(before === undefined ? key.length + value.length : value.length - before.length);
    this.#values.set(key, value);
    this.#tell(key);
  }

  /** Counters are decimal numbers in ASCII; a missing one is 0. */
  add(key: string, amount: bigint): bigint {
    const text = this.#values.get(key)?.toString('latin1') ?? '0';
    if (!/^-?\d{1,19}$/.test(text)) throw new ProtocolError(`the value of '${key}' is no number`);
    const sum = BigInt.asIntN(64, BigInt(text) + amount);
    this.set(key, Buffer.from(String(sum)));
    return sum;
  }

  /** The value afterwards. A missing key is set where nothing was expected; else `expected` comes back, as torch's server has it. */
  compareSet(key: string, expected: Buffer, desired: Buffer): Buffer {
    const value = this.#values.get(key);
    if (value === undefined && expected.length > 0) return expected;
    if (value !== undefined && !value.equals(expected)) return value;
    this.set(key, desired);
    return desired;
  }

  append(key: string, bytes: Buffer): void {
    const value = Buffer.concat([this.#values.get(key) ?? Buffer.alloc(0), bytes]);
    if (value.length > MOST_VALUE_BYTES) throw new ProtocolError(`the value of '${key}' grows too long`);
    this.set(key, value);
  }

  delete(key: string): boolean {
    const value = this.#values.get(key);
    if (value === undefined) return false;
    this.#bytes -= key.length + value.length;
    return this.#values.delete(key);
  }

  push(key: string, value: Buffer): void {
    this.#count(value.length);
    const queue = this.#queues.get(key) ?? [];
    queue.push(value);
    this.#queues.set(key, queue);
    this.#tell(key);
  }

  pop(key: string): Buffer | undefined {
    const queue = this.#queues.get(key);
    const value = queue?.shift();
    if (queue?.length === 0) this.#queues.delete(key);
    this.#bytes -= value?.length ?? 0;
    return value;
  }

  queueLength(key: string): number {
    return this.#queues.get(key)?.length ?? 0;
  }

  /** Calls over() once all are there, at once if they are. */
  wait(waiter: Waiter): void {
    for (const key of waiter.missing) {
      if (this.has(key)) waiter.missing.delete(key);
    }
    if (waiter.missing.size === 0) {
      waiter.over();
      return;
    }
    for (const key of waiter.missing) {
      const waiters = this.#waiters.get(key) ?? new Set();
      this.#waiters.set(key, waiters.add(waiter));
    }
  }

  forget(waiter: Waiter): void {
    for (const key of waiter.missing) {
      const waiters = this.#waiters.get(key);
      waiters?.delete(waiter);
      if (waiters?.size === 0) this.#waiters.delete(key);
    }
  }

  #tell(key: string): void {
    const waiters = this.#waiters.get(key);
    if (waiters === undefined) return;
    this.#waiters.delete(key);
    for (const waiter of waiters) {
      waiter.missing.delete(key);
      if (waiter.missing.size === 0) waiter.over();
    }
  }

  #count(bytes: number): void {
    if (this.#bytes + bytes > MOST_BYTES)
      throw new ProtocolError(`the store holds ${MOST_BYTES} bytes at most`);
    this.#bytes += bytes;
  }
}
