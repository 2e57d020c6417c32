// One listener for each AbortSignal, however many requests share it, gone when the last of them has ended.

import type { RequestCollector } from './collector.js';

export class AbortSignals {
  readonly #abort: (collectors: Iterable<RequestCollector>) => void;
  readonly #collectors = new Map<AbortSignal, Set<RequestCollector>>();

  constructor(abort: (collectors: Iterable<RequestCollector>) => void) {
    this.#abort = abort;
  }

  /** Aborts this request when the signal fires; at once if it has. */
  follow(signal: AbortSignal, collector: RequestCollector): void {
    if (signal.aborted) {
      this.#abort([collector]);
      return;
    }
    const siblings = this.#collectors.get(signal);
    if (siblings !== undefined) siblings.add(collector);
    else this.#listen(signal, new Set([collector]));
    collector.done.then(() => this.#leave(signal, collector));
  }

  #listen(signal: AbortSignal, collectors: Set<RequestCollector>): void {
    this.#collectors.set(signal, collectors);
    signal.addEventListener('abort', this.#onAbort, { once: true });
  }

  readonly #onAbort = (event: Event): void => {
    const collectors = this.#collectors.get(event.target as AbortSignal);
    if (collectors !== undefined) this.#abort([...collectors]);
  };

  #leave(signal: AbortSignal, collector: RequestCollector): void {
    const siblings = this.#collectors.get(signal);
    siblings?.delete(collector);
    if (siblings?.size !== 0) return;
    this.#collectors.delete(signal);
    signal.removeEventListener('abort', this.#onAbort);
  }
}
