// Collects what one request gives, token by token, into typed arrays, and makes its result when the last sample has ended.
// A request ends exactly once: by its samples' ends, or as a whole by `fail`. `done` resolves then; it never rejects.

import type { KadenzError } from '../errors.js';
import { growableFloat32, growableInt32, growableUint32 } from './growable.js';
import type { LogprobColumns } from './output_reader.js';
import type { PreparedRequest } from './request.js';
import type { FinishReason, GenerateResult, Sample, TopLogprobs } from './types.js';

export interface SampleEnd {
  reason: FinishReason;
  stopReason: number | null;
  error: KadenzError | null;
  numPreemptions: number;
}

/** One sample of a request. */
export class SampleCollector {
  readonly index: number;
  readonly tokenIds = growableInt32();
  readonly logprobs = growableFloat32();
  readonly weightVersions = growableInt32();
  readonly top: TopCollector | null;
  end: SampleEnd | null = null;

  constructor(index: number, topWidth: number) {
    this.index = index;
    this.top = topWidth > 0 ? new TopCollector(topWidth) : null;
  }
}

/** The most likely tokens of consecutive positions, `width` a position, padded where there are fewer. */
export class TopCollector {
  readonly #width: number;
  readonly #tokenIds = growableInt32();
  readonly #logprobs = growableFloat32();
  readonly #ranks = growableUint32();

  constructor(width: number) {
    this.#width = width;
  }

  push(columns: LogprobColumns, row: number): void {
    const begin = row === 0 ? 0 : (columns.topEnd[row - 1] ?? 0);
    const end = columns.topEnd[row] ?? begin;
    for (let i = begin; i < begin + this.#width; i += 1) {
      this.#tokenIds.push(i < end ? columns.topTokenIds[i]! : -1);
      this.#logprobs.push(i < end ? columns.topLogprob[i]! : Number.NEGATIVE_INFINITY);
    }
    this.#ranks.push(columns.rank[row] ?? 0);
  }

  /** A position of which nothing is known. */
  pushNothing(): void {
    for (let i = 0; i < this.#width; i += 1) {
      this.#tokenIds.push(-1);
      this.#logprobs.push(Number.NEGATIVE_INFINITY);
    }
    this.#ranks.push(0);
  }

  take(): TopLogprobs {
    return {
      width: this.#width,
      tokenIds: this.#tokenIds.copy(),
      logprobs: this.#logprobs.copy(),
      ranks: this.#ranks.copy(),
    };
  }
}

export class RequestCollector {
  readonly request: PreparedRequest;
  readonly done: Promise<GenerateResult>;
  /** Told of each change of a sample: a stream listens here. */
  onSample: ((sample: SampleCollector) => void) | null = null;
  cachedTokens = 0;
  readonly #samples: (SampleCollector | undefined)[] = [];
  #numEnded = 0;
  #ended = false;
  #promptLogprobs: Float32Array | null = null;
  #numScored = 1;
  readonly #promptTop: TopCollector | null;
  #resolve: (result: GenerateResult) => void = () => {};

  constructor(request: PreparedRequest) {
    this.request = request;
    this.#promptTop = request.promptLogprobs > 0 ? new TopCollector(request.promptLogprobs) : null;
    this.#promptTop?.pushNothing();
    this.done = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** No token and no score has come yet, nor has a sample ended. */
  get untouched(): boolean {
    return this.#samples.length === 0 && this.#promptLogprobs === null;
  }

  token(
    sampleIndex: number,
    tokenId: number,
    weightVersion: number,
    columns: LogprobColumns,
    row: number,
  ): void {
    const sample = this.#sample(sampleIndex);
    if (this.#ended || sample.end !== null)
      throw new Error(`a token came for an ended sample ${sampleIndex}`);
    sample.tokenIds.push(tokenId);
    sample.weightVersions.push(weightVersion);
    if (this.request.logprobs >= 0) sample.logprobs.push(columns.logprob[row] ?? Number.NaN);
    sample.top?.push(columns, row);
    this.onSample?.(sample);
  }

  /** Scores come once, in order of position, from 1: nothing comes before the first prompt token. */
  scores(position: number, columns: LogprobColumns, first: number, count: number): void {
    const { length } = this.request.promptTokenIds;
    if (position !== this.#numScored || position + count > length) {
      throw new Error(
        `${count} scores came for position ${position} of ${length}, where ${this.#numScored} is the next`,
      );
    }
    this.#promptLogprobs ??= new Float32Array(length).fill(Number.NaN);
    this.#promptLogprobs.set(columns.logprob.subarray(first, first + count), position);
    for (let row = first; row < first + count; row += 1) this.#promptTop?.push(columns, row);
    this.#numScored += count;
  }

  /** The samples [first, first + count) have ended. */
  finish(first: number, count: number, end: SampleEnd): void {
    const refused = end.reason === 'error' && count === this.request.n && this.untouched;
    if (refused) {
      this.fail(end.error!);
      return;
    }
    for (let index = first; index < first + count; index += 1) {
      const sample = this.#sample(index);
      if (sample.end !== null) throw new Error(`sample ${index} ended twice`);
      sample.end = end;
      this.#numEnded += 1;
      this.onSample?.(sample);
    }
    if (this.#numEnded === this.request.n) this.#settle(null);
  }

  /** The request as a whole ends with an error; samples that had ended stay as they are. */
  fail(error: KadenzError): void {
    if (this.#ended) return;
    for (const sample of this.#samples) {
      if (sample === undefined || sample.end !== null) continue;
      sample.end = { reason: 'error', stopReason: null, error, numPreemptions: 0 };
      this.onSample?.(sample);
    }
    this.#settle(error);
  }

  #sample(index: number): SampleCollector {
    if (index >= this.request.n) throw new Error(`a sample ${index} came for a request of ${this.request.n}`);
    let sample = this.#samples[index];
    if (sample === undefined) {
      sample = new SampleCollector(index, this.request.logprobs);
      this.#samples[index] = sample;
    }
    return sample;
  }

  #settle(error: KadenzError | null): void {
    this.#ended = true;
    const { request } = this;
    const samples = this.#samples.flatMap((sample) => (sample === undefined ? [] : [this.#finished(sample)]));
    const failure = error ?? (samples.every((sample) => sample.error) ? samples[0]?.error : undefined);
    const result: GenerateResult = {
      id: request.id,
      promptTokenIds: request.promptTokenIds,
      samples,
      cachedTokens: this.cachedTokens,
    };
    // A prompt of one token has a log-prob for it (NaN) though no score ever comes.
    if (request.promptLogprobs >= 0 && error === null) {
      result.promptLogprobs =
        this.#promptLogprobs ?? new Float32Array(request.promptTokenIds.length).fill(Number.NaN);
    }
    if (this.#promptTop !== null && error === null) result.promptTopLogprobs = this.#promptTop.take();
    if (failure) result.error = failure;
    this.#resolve(result);
  }

  #finished(sample: SampleCollector): Sample {
    const { reason, stopReason, error, numPreemptions } = sample.end!;
    return {
      index: sample.index,
      tokenIds: sample.tokenIds.copy(),
      logprobs: this.request.logprobs >= 0 ? sample.logprobs.copy() : null,
      ...(sample.top === null ? {} : { topLogprobs: sample.top.take() }),
      finishReason: reason,
      stopReason,
      ...(error === null ? {} : { error }),
      weightVersions: sample.weightVersions.copy(),
      numPreemptions,
    };
  }
}
