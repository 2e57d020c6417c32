// What a client knows of its request: what it asked for, what was delivered, what has ended. The checkers hold the
// core to it.

import type { RequestObject } from '../core/index.js';
import type { OracleRequest } from './host/simulated_host.js';

/** A request as a workload draws it. */
export interface RequestDraft {
  client: number;
  promptTokenIds: Int32Array;
  /** Output tokens after which each sample wants to end; as many as there are samples. */
  lengths: number[];
  maxTokens: number;
  minTokens?: number;
  priority?: number;
  adapter?: number;
  cacheSalt?: number;
  ignoreEos?: boolean;
  stopTokenIds?: number[];
  promptLogprobs?: boolean;
  repetitionPenalty?: number;
  biasTokenId?: number;
}

export enum SampleState {
  /** Not seen to be scheduled. */
  unstarted = 0,
  /** It was given a slot; it may have been preempted since. */
  open = 1,
  /** It has a token or more and has certainly been preempted. */
  waiting = 2,
  ended = 3,
}

export interface SampleAccount {
  state: SampleState;
  outputs: number[];
}

export interface Limits {
  /** Tokens of one sequence at most. */
  longest: number;
  eosTokenIds: readonly number[];
}

export class Account implements OracleRequest {
  readonly id: number;
  readonly seed: number;
  readonly draft: RequestDraft;
  readonly samples: SampleAccount[];
  readonly cacheSalt: number;
  readonly lengths: readonly number[];
  readonly priority: number;
  readonly mostOutputs: number;
  readonly leastOutputs: number;
  readonly #stops: ReadonlySet<number>;
  /** Order of acceptance. */
  arrival = 0;
  numLive: number;
  /** Arrived while a pause drained: waits for the resume. */
  isHeld = false;
  /** Some sample of it was scheduled once. */
  isStarted = false;
  startWasTold = false;
  /** Prompt tokens that the prefix cache spared when it was first scheduled. */
  cachedTokens = 0;
  /** Sample whose slot was opened to compute the prompt, until it is sampled; -1: none. */
  leader = -1;
  /** Prompt position whose log-prob is delivered next. */
  nextScore = 1;

  constructor(id: number, seed: number, draft: RequestDraft, { longest, eosTokenIds }: Limits) {
    this.id = id;
    this.seed = seed;
    this.draft = draft;
    this.samples = draft.lengths.map(() => ({ state: SampleState.unstarted, outputs: [] }));
    this.numLive = draft.lengths.length;
    this.cacheSalt = draft.cacheSalt ?? 0;
    this.lengths = draft.lengths;
    this.priority = draft.priority ?? 0;
    this.mostOutputs = Math.min(draft.maxTokens, longest - draft.promptTokenIds.length);
    this.leastOutputs = draft.minTokens ?? 0;
    this.#stops = new Set([...(draft.stopTokenIds ?? []), ...(draft.ignoreEos === true ? [] : eosTokenIds)]);
  }

  get numPromptTokens(): number {
    return this.draft.promptTokenIds.length;
  }

  /** A known token of a sample: of the prompt, or delivered. Undefined: not known yet. */
  tokenAt(sample: number, position: number): number | undefined {
    const prompt = this.draft.promptTokenIds;
    return position < prompt.length
      ? prompt[position]
      : this.samples[sample]!.outputs[position - prompt.length];
  }

  isStop(tokenId: number): boolean {
    return this.#stops.has(tokenId);
  }

  isLive(sample: number): boolean {
    return this.samples[sample]!.state !== SampleState.ended;
  }

  /** The first sample that was not seen to be scheduled, or the number of samples. */
  get nextUnstarted(): number {
    const index = this.samples.findIndex(({ state }) => state === SampleState.unstarted);
    return index < 0 ? this.samples.length : index;
  }

  asRequest(): RequestObject {
    const { draft } = this;
    return {
      id: this.id,
      seed: this.seed,
      promptTokenIds: draft.promptTokenIds,
      n: draft.lengths.length,
      maxTokens: draft.maxTokens,
      minTokens: this.leastOutputs,
      priority: this.priority,
      adapter: draft.adapter ?? 0,
      cacheSalt: this.cacheSalt,
      ignoreEos: draft.ignoreEos ?? false,
      stopTokenIds: draft.stopTokenIds ?? [],
      promptLogprobs: draft.promptLogprobs === true ? 0 : -1,
      repetitionPenalty: draft.repetitionPenalty ?? 1,
      logprobs: 0,
      ...(draft.biasTokenId === undefined ? {} : { logitBias: { [draft.biasTokenId]: -1 } }),
    };
  }
}
