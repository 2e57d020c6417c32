// What a caller gives and gets: requests, results, stream deltas.

import type { KadenzError } from '../errors.js';
import type { ChatMessage } from '../tokenizer/index.js';

export type LogprobsMode = 'raw' | 'processed';
export type FinishReason = 'stop' | 'length' | 'abort' | 'error';
export type PauseMode = 'abort' | 'wait' | 'keep' | 'retract';
export type RequestId = string | number;

export interface SamplingOptions {
  /** Samples of this prompt; they share its prefill. Default 1. */
  n?: number;
  /** 0 is greedy. Default 1. */
  temperature?: number;
  /** Default 1 (off). */
  topP?: number;
  /** Default 0 (off); -1 is off too. */
  topK?: number;
  /** Default 0 (off). */
  minP?: number;
  /** 64 bits. Default: derived from the engine's seed and the request's ordinal, so a run repeats exactly. */
  seed?: number | bigint;
  /** Default 16. */
  maxTokens?: number;
  /** No end of sequence before so many tokens. Default 0. */
  minTokens?: number;
  /** Over prompt and output. Default 1 (off). */
  repetitionPenalty?: number;
  /** Over the output. Default 0 (off). */
  presencePenalty?: number;
  /** Over the output. Default 0 (off). */
  frequencyPenalty?: number;
  /** Added to the logits, by token id. */
  logitBias?: Readonly<Record<number, number>> | ReadonlyMap<number, number>;
  /** Sampling one of these ends the sample; the token is kept. The model's own EOS always counts, unless `ignoreEos`. */
  stopTokenIds?: ArrayLike<number>;
  /** Go on after the model's EOS. Default false. */
  ignoreEos?: boolean;
  /** 0: of each sampled token (the default). k: also of the k most likely. null or -1: none. */
  logprobs?: number | null;
  /** The same for the prompt's tokens. Default null: none. A request with them never uses the prefix cache. */
  promptLogprobs?: number | null;
  /** raw (default): log-softmax of the model's logits. processed: after bias, penalties, temperature and filters. */
  logprobsMode?: LogprobsMode;
}

/** One request: exactly one of `promptTokenIds`, `prompt` and `messages`. The last two need the model's tokenizer. */
export interface GenerateRequest extends SamplingOptions {
  /** Echoed in the result, and understood by `abort`. Default: the request's ordinal. */
  id?: RequestId;
  promptTokenIds?: ArrayLike<number>;
  prompt?: string;
  messages?: readonly ChatMessage[];
  /** Smaller runs first; ties by arrival. Default 0. */
  priority?: number;
  /** Prefix-cache hits only among requests of one salt. Default 0. */
  cacheSalt?: number | bigint;
  /** Number of a loaded adapter; 0 (default) is none. */
  adapter?: number;
  /** Whether samples carry `text`. Default: when the request came as text. */
  detokenize?: boolean;
}

/** The `width` most likely tokens at each position, position after position. Missing entries: token -1, log-prob -Infinity. */
export interface TopLogprobs {
  width: number;
  tokenIds: Int32Array;
  logprobs: Float32Array;
  /** Rank of the position's own token; 1 is the most likely. */
  ranks: Uint32Array;
}

export interface Sample {
  index: number;
  tokenIds: Int32Array;
  /** Of the sampled tokens; null when not asked for. */
  logprobs: Float32Array | null;
  topLogprobs?: TopLogprobs;
  text?: string;
  finishReason: FinishReason;
  /** finishReason stop: the token id that ended it; else null. */
  stopReason: number | null;
  /** finishReason error: why. */
  error?: KadenzError;
  /** The weight version that sampled each token. */
  weightVersions: Int32Array;
  numPreemptions: number;
}

export interface GenerateResult {
  id: RequestId;
  promptTokenIds: Int32Array;
  samples: Sample[];
  /** One per prompt token; the first is NaN, since nothing comes before it. */
  promptLogprobs?: Float32Array;
  promptTopLogprobs?: TopLogprobs;
  /** Prompt tokens that the prefix cache spared. */
  cachedTokens: number;
  /** The request as a whole failed: it was refused (no samples), all its samples failed, or the worker died under it. */
  error?: KadenzError;
}

/** New tokens of one sample since its last delta. */
export interface StreamDelta {
  sample: number;
  tokenIds: Int32Array;
  logprobs: Float32Array | null;
  /** On the sample's last delta. */
  finishReason?: FinishReason;
  stopReason?: number | null;
  error?: KadenzError;
}
