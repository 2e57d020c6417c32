// What a request may ask for. Floats are judged by their bits: the core does no arithmetic on them, it checks and forwards.
//
// Bits of a non-negative IEEE 754 float order like the float itself; the sign bit is the top one; 0x7f800000 and above is inf or NaN.
import { CoreState } from './core_state';
import { ErrorCode, LogprobsMode, SamplingParams } from './wire/generated/types';

const INFINITY: u32 = 0x7f800000;
const MAGNITUDE: u32 = 0x7fffffff;
const ONE: u32 = 0x3f800000;
const TWO: u32 = 0x40000000;

/** 0 <= x <= limit; -0 counts as 0. */
function isBetweenZeroAnd(bits: u32, limit: u32): bool {
  return bits <= limit || bits == 0x80000000;
}

function isPositive(bits: u32): bool {
  return bits > 0 && bits < INFINITY;
}

function isWithinTwo(bits: u32): bool {
  return (bits & MAGNITUDE) <= TWO;
}

/** A bias may forbid a token (-inf), not force it (+inf). */
export function isBias(bits: u32): bool {
  return (bits & MAGNITUDE) < INFINITY || bits == (INFINITY | 0x80000000);
}

export function needsHistory(params: usize): bool {
  return (
    SamplingParams.repetition_penalty_bits(params) != ONE ||
    (SamplingParams.presence_penalty_bits(params) & MAGNITUDE) != 0 ||
    (SamplingParams.frequency_penalty_bits(params) & MAGNITUDE) != 0
  );
}

/** The first parameter that is out of its range, as an ErrorCode, or none. */
export function checkSamplingParams(c: CoreState, params: usize): u16 {
  if (!isBetweenZeroAnd(SamplingParams.temperature_bits(params), INFINITY - 1))
    return ErrorCode.invalid_temperature;
  const topP = SamplingParams.top_p_bits(params);
  if (topP == 0 || topP > ONE) return ErrorCode.invalid_top_p;
  if (SamplingParams.top_k(params) > 0x7fffffff) return ErrorCode.invalid_top_k;
  if (!isBetweenZeroAnd(SamplingParams.min_p_bits(params), ONE)) return ErrorCode.invalid_min_p;
  if (!isPositive(SamplingParams.repetition_penalty_bits(params)))
    return ErrorCode.invalid_repetition_penalty;
  if (!isWithinTwo(SamplingParams.presence_penalty_bits(params))) return ErrorCode.invalid_presence_penalty;
  if (!isWithinTwo(SamplingParams.frequency_penalty_bits(params))) return ErrorCode.invalid_frequency_penalty;
  const maxTokens = SamplingParams.max_tokens(params);
  if (maxTokens == 0 && SamplingParams.prompt_logprobs(params) < 0) return ErrorCode.invalid_max_tokens;
  if (SamplingParams.min_tokens(params) > maxTokens) return ErrorCode.invalid_min_tokens;
  if (!isLogprobs(c, SamplingParams.logprobs(params))) return ErrorCode.invalid_logprobs;
  if (!isLogprobs(c, SamplingParams.prompt_logprobs(params))) return ErrorCode.invalid_prompt_logprobs;
  if (SamplingParams.logprobs_mode(params) > LogprobsMode.processed) return ErrorCode.invalid_logprobs_mode;
  return ErrorCode.none;
}

function isLogprobs(c: CoreState, count: i32): bool {
  return count >= -1 && count <= <i32>c.maxLogprobs;
}

/** The value that a refusal names (of a float its bits), and the limit beside it. */
export function refusedValue(code: u16, params: usize): i64 {
  if (code == ErrorCode.invalid_temperature) return <i64>SamplingParams.temperature_bits(params);
  if (code == ErrorCode.invalid_top_p) return <i64>SamplingParams.top_p_bits(params);
  if (code == ErrorCode.invalid_min_p) return <i64>SamplingParams.min_p_bits(params);
  if (code == ErrorCode.invalid_repetition_penalty)
    return <i64>SamplingParams.repetition_penalty_bits(params);
  if (code == ErrorCode.invalid_presence_penalty) return <i64>SamplingParams.presence_penalty_bits(params);
  if (code == ErrorCode.invalid_frequency_penalty) return <i64>SamplingParams.frequency_penalty_bits(params);
  if (code == ErrorCode.invalid_top_k) return <i64>SamplingParams.top_k(params);
  if (code == ErrorCode.invalid_max_tokens) return <i64>SamplingParams.max_tokens(params);
  if (code == ErrorCode.invalid_min_tokens) return <i64>SamplingParams.min_tokens(params);
  if (code == ErrorCode.invalid_logprobs) return <i64>SamplingParams.logprobs(params);
  if (code == ErrorCode.invalid_prompt_logprobs) return <i64>SamplingParams.prompt_logprobs(params);
  if (code == ErrorCode.invalid_logprobs_mode) return <i64>SamplingParams.logprobs_mode(params);
  return 0;
}

export function refusedLimit(c: CoreState, code: u16, params: usize): i64 {
  if (code == ErrorCode.invalid_min_tokens) return <i64>SamplingParams.max_tokens(params);
  if (code == ErrorCode.invalid_logprobs || code == ErrorCode.invalid_prompt_logprobs)
    return <i64>c.maxLogprobs;
  return 0;
}
