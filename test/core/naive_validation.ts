// Which requests the naive model refuses, in the order in which the checks are made, with the value that was refused and its limit.
import type { NaiveConfig, NaiveRequestInput, Refusal } from './naive_types.js';

const refusal = (code: string, value = 0, limit = 0): Refusal => ({ code, value, limit });

const maxStopTokenIds = 64;
const maxBiases = 1024;

export function refuseRequest(input: NaiveRequestInput, config: NaiveConfig): Refusal | null {
  return refusePrompt(input, config) ?? refuseParams(input, config);
}

function refusePrompt(input: NaiveRequestInput, config: NaiveConfig): Refusal | null {
  const prompt = input.promptTokenIds;
  const room = input.maxTokens === 0 ? 0 : 1;
  const poolTokens = config.numBlocks * config.blockSize;
  if (prompt.length === 0) return refusal('prompt_empty');
  if (prompt.length > config.maxModelLen - room) {
    return refusal('prompt_too_long', prompt.length, config.maxModelLen - room);
  }
  if (prompt.length > poolTokens - room) {
    return refusal('prompt_exceeds_kv_cache', prompt.length, poolTokens - room);
  }
  for (const token of prompt) {
    if (token < 0 || token >= config.vocabSize) {
      return refusal('prompt_token_out_of_range', token, config.vocabSize - 1);
    }
  }
  const mostSamples = input.maxTokens === 0 ? 1 : config.maxN;
  if (input.n === 0 || input.n > mostSamples) return refusal('invalid_n', input.n, mostSamples);
  return null;
}

/** In the order of the error codes. */
function refuseParams(input: NaiveRequestInput, config: NaiveConfig): Refusal | null {
  const within = (value: number, low: number, high: number) => value >= low && value <= high;
  if (!(input.temperature >= 0 && Number.isFinite(input.temperature))) return refusal('invalid_temperature');
  if (!(input.topP > 0 && input.topP <= 1)) return refusal('invalid_top_p');
  if (!within(input.minP, 0, 1)) return refusal('invalid_min_p');
  if (!(input.repetitionPenalty > 0 && Number.isFinite(input.repetitionPenalty))) {
    return refusal('invalid_repetition_penalty');
  }
  if (!within(input.presencePenalty, -2, 2)) return refusal('invalid_presence_penalty');
  if (!within(input.frequencyPenalty, -2, 2)) return refusal('invalid_frequency_penalty');
  if (input.maxTokens === 0 && input.promptLogprobs < 0) return refusal('invalid_max_tokens');
  if (input.minTokens > input.maxTokens)
    return refusal('invalid_min_tokens', input.minTokens, input.maxTokens);
  if (!within(input.logprobs, -1, config.maxLogprobs)) {
    return refusal('invalid_logprobs', input.logprobs, config.maxLogprobs);
  }
  if (!within(input.promptLogprobs, -1, config.maxLogprobs)) {
    return refusal('invalid_prompt_logprobs', input.promptLogprobs, config.maxLogprobs);
  }
  if (input.stopTokenIds.length > maxStopTokenIds) {
    return refusal('invalid_stop_token_ids', input.stopTokenIds.length, maxStopTokenIds);
  }
  for (const token of input.stopTokenIds) {
    if (token < 0 || token >= config.vocabSize)
      return refusal('invalid_stop_token_ids', token, config.vocabSize - 1);
  }
  if (input.logitBias.length > maxBiases)
    return refusal('invalid_logit_bias', input.logitBias.length, maxBiases);
  for (let i = 0; i < input.logitBias.length; i++) {
    const { tokenId, bias } = input.logitBias[i]!;
    const ascending = i === 0 || tokenId > input.logitBias[i - 1]!.tokenId;
    if (tokenId < 0 || tokenId >= config.vocabSize || !ascending) {
      return refusal('invalid_logit_bias', tokenId, config.vocabSize - 1);
    }
    if (Number.isNaN(bias) || bias === Number.POSITIVE_INFINITY) {
      return refusal('invalid_logit_bias', tokenId, config.vocabSize - 1);
    }
  }
  return null;
}
