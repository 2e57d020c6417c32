// Requests that the core has no place for yet: a binary heap by priority, then by ordinal. A request that ended while it waited is
// passed over when its turn comes.

import type { RequestCollector } from './collector.js';

export class WaitingQueue {
  readonly #heap: RequestCollector[] = [];

  push(collector: RequestCollector): void {
    const heap = this.#heap;
    let index = heap.length;
    heap.push(collector);
    while (index > 0) {
      const parent = (index - 1) >> 1;
      if (!goesBefore(collector, heap[parent]!)) break;
      heap[index] = heap[parent]!;
      index = parent;
    }
    heap[index] = collector;
  }

  /** How many have not ended. Looks at all of them. */
  get numWaiting(): number {
    return this.#heap.filter((collector) => !collector.ended).length;
  }

  /** The next one that has not ended, without taking it. */
  peek(): RequestCollector | null {
    while (this.#heap.length > 0 && this.#heap[0]!.ended) this.#removeFirst();
    return this.#heap[0] ?? null;
  }

  pop(): RequestCollector | null {
    const first = this.peek();
    if (first !== null) this.#removeFirst();
    return first;
  }

  #removeFirst(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    if (heap.length === 0) return;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && goesBefore(heap[child + 1]!, heap[child]!)) child += 1;
      if (!goesBefore(heap[child]!, last)) break;
      heap[index] = heap[child]!;
      index = child;
    }
    heap[index] = last;
  }
}

function goesBefore({ request: a }: RequestCollector, { request: b }: RequestCollector): boolean {
  return a.priority !== b.priority ? a.priority < b.priority : a.ordinal < b.ordinal;
}
