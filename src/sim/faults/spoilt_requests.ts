// Requests that no core can run as they are, each with the code that it must be refused with.

import type { ResolvedCoreConfig } from '../../core/index.js';
import { ErrorCode } from '../../generated/index.js';
import type { Random } from '../random.js';
import type { Spoilt } from './clients.js';

/** One thing is wrong with it: a number outside of its range, a token outside of the vocabulary. */
export function malformedRequest(
  random: Random,
  { vocabSize, maxN, maxLogprobs }: ResolvedCoreConfig,
): Spoilt {
  return random.pick<Spoilt>([
    { request: { temperature: Number.NaN }, fault: ErrorCode.invalid_temperature },
    { request: { temperature: -0.5 }, fault: ErrorCode.invalid_temperature },
    { request: { topP: 0 }, fault: ErrorCode.invalid_top_p },
    { request: { topP: 1.5 }, fault: ErrorCode.invalid_top_p },
    { request: { topK: 2 ** 31 }, fault: ErrorCode.invalid_top_k },
    { request: { minP: -0.1 }, fault: ErrorCode.invalid_min_p },
    { request: { repetitionPenalty: 0 }, fault: ErrorCode.invalid_repetition_penalty },
    { request: { presencePenalty: 2.5 }, fault: ErrorCode.invalid_presence_penalty },
    { request: { frequencyPenalty: Number.POSITIVE_INFINITY }, fault: ErrorCode.invalid_frequency_penalty },
    { request: { maxTokens: 0, minTokens: 0, promptLogprobs: -1 }, fault: ErrorCode.invalid_max_tokens },
    { request: { maxTokens: 3, minTokens: 4 }, fault: ErrorCode.invalid_min_tokens },
    { request: { logprobs: maxLogprobs + 1 }, fault: ErrorCode.invalid_logprobs },
    { request: { promptLogprobs: -2 }, fault: ErrorCode.invalid_prompt_logprobs },
    { request: { stopTokenIds: [vocabSize] }, fault: ErrorCode.invalid_stop_token_ids },
    { request: { logitBias: { [vocabSize]: 1 } }, fault: ErrorCode.invalid_logit_bias },
    { request: { logitBias: { 0: Number.NaN } }, fault: ErrorCode.invalid_logit_bias },
    { request: { n: 0 }, fault: ErrorCode.invalid_n },
    { request: { n: maxN + 1 }, fault: ErrorCode.invalid_n },
    { request: { promptTokenIds: [] }, fault: ErrorCode.prompt_empty },
    { request: { promptTokenIds: [vocabSize] }, fault: ErrorCode.prompt_token_out_of_range },
    { request: { promptTokenIds: [-1] }, fault: ErrorCode.prompt_token_out_of_range },
  ]);
}

/** Its prompt can never fit: the model, or the whole pool of KV blocks. */
export function impossibleRequest(random: Random, config: ResolvedCoreConfig): Spoilt {
  const { maxModelLen, numBlocks, blockSize } = config;
  const pool = numBlocks * blockSize;
  const isForPool = pool < maxModelLen && random.perMille(700);
  const length = isForPool ? random.between(pool, maxModelLen - 1) : maxModelLen + random.below(64);
  return {
    request: { promptTokenIds: new Int32Array(length) },
    fault: isForPool ? ErrorCode.prompt_exceeds_kv_cache : ErrorCode.prompt_too_long,
  };
}
