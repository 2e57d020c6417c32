// AddRequests: each request is judged on its own, refused with a code or queued. The order of the checks is the order of the answers.
import { hasAdapter } from './adapter_table';
import { CoreState, Pause } from './core_state';
import { hold, queueRequest } from './lifecycle';
import { putRefusal } from './output';
import { findRequest, newRequest, paramsOf } from './request';
import { checkSamplingParams, isBias, refusedLimit, refusedValue } from './sampling_params';
import { heapAllocate, heapTakes } from './token_heap';
import { Request as WireRequest } from './wire/generated/command';
import { ErrorCode, SamplingParams } from './wire/generated/types';

export const MAX_STOP_TOKEN_IDS: u32 = 64;
export const MAX_BIASES: u32 = 1024;

/** Why a request is refused: `code` none means it is not. Lives in scratch memory, one at a time. */
@unmanaged
class Refusal {
  code: u16;
  value: i64;
  limit: i64;
}

const REFUSAL: usize = 0x1f000;

export function addRequest(c: CoreState, wire: usize): void {
  const refusal = changetype<Refusal>(REFUSAL);
  refusal.value = 0;
  refusal.limit = 0;
  refusal.code = judge(c, wire, refusal);
  if (refusal.code == ErrorCode.none) refusal.code = accept(c, wire, refusal);
  if (refusal.code != ErrorCode.none) {
    putRefusal(c, WireRequest.id(wire), WireRequest.n(wire), refusal.code, refusal.value, refusal.limit);
  }
}

function because(refusal: Refusal, code: u16, value: i64, limit: i64): u16 {
  refusal.value = value;
  refusal.limit = limit;
  return code;
}

function judge(c: CoreState, wire: usize, refusal: Refusal): u16 {
  if (c.shutDown) return ErrorCode.shut_down;
  const paused = c.pause != Pause.none;
  if (c.released != 0 && !paused) return because(refusal, ErrorCode.memory_released, <i64>c.released, 0);
  if (!c.weightsUsable || (c.updatingWeights && !paused)) return ErrorCode.weights_unavailable;
  if (findRequest(c, WireRequest.id(wire)) != 0)
    return because(refusal, ErrorCode.request_id_in_use, <i64>WireRequest.id(wire), 0);

  const params = WireRequest.params(wire);
  const length = WireRequest.prompt_token_ids_length(wire);
  if (length == 0) return ErrorCode.prompt_empty;
  const outputs: u32 = params != 0 && SamplingParams.max_tokens(params) == 0 ? 0 : 1;
  if (<u64>length + outputs > <u64>c.maxModelLen) {
    return because(refusal, ErrorCode.prompt_too_long, <i64>length, <i64>(c.maxModelLen - outputs));
  }
  if (length + outputs > c.lengthLimit) {
    return because(refusal, ErrorCode.prompt_exceeds_kv_cache, <i64>length, <i64>(c.lengthLimit - outputs));
  }
  const outside = firstOutside(c, WireRequest.prompt_token_ids(wire), length);
  if (outside < length) {
    const token = load<i32>(WireRequest.prompt_token_ids(wire) + ((<usize>outside) << 2));
    return because(refusal, ErrorCode.prompt_token_out_of_range, <i64>token, <i64>c.vocabSize - 1);
  }
  const n = WireRequest.n(wire);
  const mostSamples: u32 = outputs == 0 ? 1 : c.maxN;
  if (n == 0 || n > mostSamples) return because(refusal, ErrorCode.invalid_n, <i64>n, <i64>mostSamples);
  if (params == 0) return ErrorCode.malformed_message;
  const code = checkSamplingParams(c, params);
  if (code != ErrorCode.none)
    return because(refusal, code, refusedValue(code, params), refusedLimit(c, code, params));
  return judgeLists(c, wire, refusal);
}

function judgeLists(c: CoreState, wire: usize, refusal: Refusal): u16 {
  const stops = WireRequest.stop_token_ids_length(wire);
  if (stops > MAX_STOP_TOKEN_IDS)
    return because(refusal, ErrorCode.invalid_stop_token_ids, <i64>stops, <i64>MAX_STOP_TOKEN_IDS);
  const stopTokens = WireRequest.stop_token_ids(wire);
  const outsideStop = firstOutside(c, stopTokens, stops);
  if (outsideStop < stops) {
    const token = load<i32>(stopTokens + ((<usize>outsideStop) << 2));
    return because(refusal, ErrorCode.invalid_stop_token_ids, <i64>token, <i64>c.vocabSize - 1);
  }
  const biases = WireRequest.bias_token_ids_length(wire);
  if (biases > MAX_BIASES)
    return because(refusal, ErrorCode.invalid_logit_bias, <i64>biases, <i64>MAX_BIASES);
  if (WireRequest.bias_length(wire) != biases) {
    return because(refusal, ErrorCode.invalid_logit_bias, <i64>WireRequest.bias_length(wire), <i64>biases);
  }
  let previous: i32 = -1;
  for (let index: u32 = 0; index < biases; index++) {
    const token = load<i32>(WireRequest.bias_token_ids(wire) + ((<usize>index) << 2));
    if (token <= previous || <u32>token >= c.vocabSize) {
      return because(refusal, ErrorCode.invalid_logit_bias, <i64>token, <i64>c.vocabSize - 1);
    }
    if (!isBias(load<u32>(WireRequest.bias(wire) + ((<usize>index) << 2)))) {
      return because(refusal, ErrorCode.invalid_logit_bias, <i64>token, <i64>c.vocabSize - 1);
    }
    previous = token;
  }
  return ErrorCode.none;
}

/** Index of the first token id outside of the vocabulary, or `length`. Negative ids are large unsigned ones. */
function firstOutside(c: CoreState, tokens: usize, length: u32): u32 {
  const vocabSize = c.vocabSize;
  let index: u32 = 0;
  while (index < length && load<u32>(tokens + ((<usize>index) << 2)) < vocabSize) index++;
  return index;
}

function accept(c: CoreState, wire: usize, refusal: Refusal): u16 {
  if (c.numLive == c.maxNumRequests)
    return because(refusal, ErrorCode.queue_full, <i64>c.numLive + 1, <i64>c.maxNumRequests);
  const adapter = WireRequest.adapter(wire);
  const promptBytes = (<usize>WireRequest.prompt_token_ids_length(wire)) << 2;
  const stopBytes = (<usize>WireRequest.stop_token_ids_length(wire)) << 2;
  const biasBytes = (<usize>WireRequest.bias_token_ids_length(wire)) << 2;
  const bytes = <u64>(promptBytes + stopBytes + 2 * biasBytes);
  if (adapter != 0 && !hasAdapter(c, adapter))
    return because(refusal, ErrorCode.unknown_adapter, <i64>adapter, 0);
  // Its own memory and that of one sequence must fit beside each other, or it could never start.
  const atLeast = heapTakes(bytes) + heapTakes(<u64>promptBytes + 4);
  if (atLeast > c.heapBytes)
    return because(refusal, ErrorCode.out_of_token_memory, <i64>atLeast, <i64>c.heapBytes);
  const memoryOfRequest = heapAllocate(c, bytes);
  if (memoryOfRequest == 0)
    return because(refusal, ErrorCode.queue_full, <i64>(c.heapUsedBytes + bytes), <i64>c.heapBytes);
  const request = newRequest(c, WireRequest.id(wire));
  request.memory = memoryOfRequest;
  request.priority = WireRequest.priority(wire);
  request.adapter = adapter;
  request.cacheSalt = WireRequest.cache_salt(wire);
  request.n = WireRequest.n(wire);
  request.numPromptTokens = WireRequest.prompt_token_ids_length(wire);
  request.numStopTokens = WireRequest.stop_token_ids_length(wire);
  request.numBiases = WireRequest.bias_token_ids_length(wire);
  memory.copy(paramsOf(request), WireRequest.params(wire), SamplingParams.BYTES);
  memory.copy(memoryOfRequest, WireRequest.prompt_token_ids(wire), promptBytes);
  memory.copy(memoryOfRequest + promptBytes, WireRequest.stop_token_ids(wire), stopBytes);
  memory.copy(memoryOfRequest + promptBytes + stopBytes, WireRequest.bias_token_ids(wire), biasBytes);
  memory.copy(memoryOfRequest + promptBytes + stopBytes + biasBytes, WireRequest.bias(wire), biasBytes);
  c.numUnstarted += request.n;
  if (c.pause == Pause.draining) hold(c, request);
  else queueRequest(c, request);
  return ErrorCode.none;
}
