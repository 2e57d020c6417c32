// One request as an async iterator of deltas. Nothing is pushed: the collector holds the tokens anyway, and each `next` hands over
// what a sample has gained since its last delta. So a slow reader costs no memory and gets larger deltas, and the samples of a
// request take turns. Leaving the loop early aborts the request.

import type { RequestCollector, SampleCollector } from './collector.js';
import type { StreamDelta } from './types.js';

export class SampleStream implements AsyncIterableIterator<StreamDelta> {
  readonly #collector: RequestCollector;
  readonly #abort: () => void;
  /** Samples with news, each once, in the order in which the news came. */
  readonly #news = new Map<number, SampleCollector>();
  /** Tokens of each sample that were handed over. */
  readonly #delivered = new Map<number, number>();
  #wake: (() => void) | null = null;
  #over = false;

  constructor(collector: RequestCollector, abort: () => void) {
    this.#collector = collector;
    this.#abort = abort;
    collector.onSample = (sample) => {
      this.#news.set(sample.index, sample);
      this.#wake?.();
    };
    collector.done.then(() => this.#wake?.());
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Waits for the next delta. Throws the request's error after the last one, if it failed as a whole. */
  async next(): Promise<IteratorResult<StreamDelta, undefined>> {
    while (!this.#over && this.#news.size === 0 && !this.#collector.ended) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = null;
    }
    if (this.#over) return { done: true, value: undefined };
    const [sample] = this.#news.values();
    if (sample !== undefined) {
      this.#news.delete(sample.index);
      return { done: false, value: this.#delta(sample) };
    }
    this.#over = true;
    const { error } = await this.#collector.done;
    if (error !== undefined) throw error;
    return { done: true, value: undefined };
  }

  async return(): Promise<IteratorResult<StreamDelta, undefined>> {
    this.#over = true;
    this.#news.clear();
    this.#abort();
    this.#wake?.();
    return { done: true, value: undefined };
  }

  #delta(sample: SampleCollector): StreamDelta {
    const begin = this.#delivered.get(sample.index) ?? 0;
    this.#delivered.set(sample.index, sample.tokenIds.length);
    const delta: StreamDelta = {
      sample: sample.index,
      tokenIds: sample.tokenIds.copy(begin),
      logprobs: this.#collector.request.logprobs >= 0 ? sample.logprobs.copy(begin) : null,
    };
    if (sample.end === null) return delta;
    const { reason, stopReason, error } = sample.end;
    return { ...delta, finishReason: reason, stopReason, ...(error === null ? {} : { error }) };
  }
}
