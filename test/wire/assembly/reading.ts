// The AssemblyScript readers of the golden messages: they verify a message and give it back as a list of 64-bit words (every vector as
// its count and then its elements), so that a test can compare each value.

import {
  AbortRequests,
  AddRequests,
  Command,
  CommandPayload,
  Configure,
  FinishWeightUpdate,
  LoadAdapter,
  PauseGeneration,
  ReleaseMemory,
  Request,
  ResetPrefixCache,
  ResumeMemory,
  SetParallelGroups,
  UnloadAdapter,
} from '../../../assembly/wire/generated/command';
import { Instruction } from '../../../assembly/wire/generated/instruction';
import { Output, Stats } from '../../../assembly/wire/generated/output';
import { Result } from '../../../assembly/wire/generated/result';
import { SamplingParams } from '../../../assembly/wire/generated/types';

// Words out: [address of the next word][words left] at SINK, then the words.

const SINK: usize = 1024;

export function open_sink(first: usize, capacity: u32): void {
  store<u32>(SINK, <u32>first);
  store<u32>(SINK, capacity, 4);
  store<u64>(SINK, 0, 8);
}

export function sink_end(): usize {
  return <usize>load<u32>(SINK);
}

/** Beyond the capacity words are only folded, so that a message which names one vector many times can be read to its end. */
function word(value: u64): void {
  store<u64>(SINK, load<u64>(SINK, 8) * 31 + value, 8);
  const left = load<u32>(SINK, 4);
  if (left == 0) return;
  const at = <usize>load<u32>(SINK);
  store<u64>(at, value);
  store<u32>(SINK, <u32>at + 8);
  store<u32>(SINK, left - 1, 4);
}

/**
 * A signed word, zero-extended by a mask: asc's optimiser (0.28.20) turns the zero-extension of a signed 32-bit load, `<u64><u32>load<i32>(at)`,
 * into a sign-extending one.
 */
function signed_word(value: i32): void {
  word(<u64>value & 0xffff_ffff);
}

function words8(first: usize, count: u32): void {
  word(count);
  for (let i: usize = 0; i < <usize>count; i++) word(load<u8>(first + i));
}

function words16(first: usize, count: u32): void {
  word(count);
  for (let i: usize = 0; i < <usize>count; i++) word(load<u16>(first + (i << 1)));
}

function words32(first: usize, count: u32): void {
  word(count);
  for (let i: usize = 0; i < <usize>count; i++) word(load<u32>(first + (i << 2)));
}

function words64(first: usize, count: u32): void {
  word(count);
  for (let i: usize = 0; i < <usize>count; i++) word(load<u64>(first + (i << 3)));
}

export function verify_command(buffer: usize, bytes: u32): bool {
  return Command.verify_root(buffer, bytes);
}

export function verify_result(buffer: usize, bytes: u32): bool {
  return Result.verify_root(buffer, bytes);
}

export function verify_instruction(buffer: usize, bytes: u32): bool {
  return Instruction.verify_root(buffer, bytes);
}

export function verify_output(buffer: usize, bytes: u32): bool {
  return Output.verify_root(buffer, bytes);
}

export function verify_stats(buffer: usize, bytes: u32): bool {
  return Stats.verify_root(buffer, bytes);
}

function read_params(params: usize): void {
  word(params != 0);
  if (params == 0) return;
  word(SamplingParams.seed(params));
  word(SamplingParams.temperature_bits(params));
  word(SamplingParams.top_p_bits(params));
  word(SamplingParams.min_p_bits(params));
  word(SamplingParams.repetition_penalty_bits(params));
  word(SamplingParams.presence_penalty_bits(params));
  word(SamplingParams.frequency_penalty_bits(params));
  word(SamplingParams.top_k(params));
  word(SamplingParams.max_tokens(params));
  word(SamplingParams.min_tokens(params));
  signed_word(SamplingParams.logprobs(params));
  signed_word(SamplingParams.prompt_logprobs(params));
  word(SamplingParams.logprobs_mode(params));
  word(SamplingParams.ignore_eos(params));
}

function read_request(request: usize): void {
  word(Request.id(request));
  words32(Request.prompt_token_ids(request), Request.prompt_token_ids_length(request));
  word(Request.n(request));
  signed_word(Request.priority(request));
  word(Request.adapter(request));
  word(Request.cache_salt(request));
  read_params(Request.params(request));
  words32(Request.stop_token_ids(request), Request.stop_token_ids_length(request));
  words32(Request.bias_token_ids(request), Request.bias_token_ids_length(request));
  words32(Request.bias(request), Request.bias_length(request));
}

function read_configure(configure: usize): void {
  word(Configure.max_num_seqs(configure));
  word(Configure.max_num_batched_tokens(configure));
  word(Configure.max_model_len(configure));
  word(Configure.num_blocks(configure));
  word(Configure.block_size(configure));
  word(Configure.vocab_size(configure));
  word(Configure.max_num_requests(configure));
  word(Configure.long_prefill_token_threshold(configure));
  word(Configure.enable_prefix_cache(configure));
  word(Configure.max_steps_in_flight(configure));
  word(Configure.max_n(configure));
  word(Configure.max_logprobs(configure));
  word(Configure.token_heap_bytes(configure));
  words32(Configure.eos_token_ids(configure), Configure.eos_token_ids_length(configure));
}

/** A verified Command. */
export function read_command(buffer: usize): void {
  const command = Command.root(buffer);
  const type = Command.payload_type(command);
  const payload = Command.payload(command);
  word(Command.id(command));
  word(type);
  switch (type) {
    case CommandPayload.Configure:
      read_configure(payload);
      break;
    case CommandPayload.AddRequests: {
      const count = AddRequests.requests_length(payload);
      word(count);
      for (let i: u32 = 0; i < count; i++) read_request(AddRequests.requests_at(payload, i));
      break;
    }
    case CommandPayload.AbortRequests:
      words64(AbortRequests.request_ids(payload), AbortRequests.request_ids_length(payload));
      word(AbortRequests.all(payload));
      break;
    case CommandPayload.PauseGeneration:
      word(PauseGeneration.mode(payload));
      break;
    case CommandPayload.ResetPrefixCache:
      word(ResetPrefixCache.force(payload));
      break;
    case CommandPayload.FinishWeightUpdate:
      word(FinishWeightUpdate.version(payload));
      word(FinishWeightUpdate.succeeded(payload));
      break;
    case CommandPayload.ReleaseMemory:
      word(ReleaseMemory.tags(payload));
      word(ReleaseMemory.abort_running(payload));
      break;
    case CommandPayload.ResumeMemory:
      word(ResumeMemory.tags(payload));
      break;
    case CommandPayload.LoadAdapter:
      word(LoadAdapter.adapter(payload));
      words8(LoadAdapter.name(payload), LoadAdapter.name_length(payload));
      words8(LoadAdapter.path(payload), LoadAdapter.path_length(payload));
      break;
    case CommandPayload.UnloadAdapter:
      word(UnloadAdapter.adapter(payload));
      break;
    case CommandPayload.SetParallelGroups:
      word(SetParallelGroups.tensor_parallel_size(payload));
      word(SetParallelGroups.pipeline_parallel_size(payload));
      word(SetParallelGroups.data_parallel_size(payload));
      word(SetParallelGroups.rank(payload));
      break;
    default:
      break;
  }
}

/** A verified Result. */
export function read_result(buffer: usize): void {
  const result = Result.root(buffer);
  word(Result.step(result));
  word(Result.code(result));
  words8(Result.message(result), Result.message_length(result));
  words32(Result.token_ids(result), Result.token_ids_length(result));
  words16(Result.row_code(result), Result.row_code_length(result));
  words32(Result.logprob(result), Result.logprob_length(result));
  words32(Result.rank(result), Result.rank_length(result));
  words32(Result.top_end(result), Result.top_end_length(result));
  words32(Result.top_token_ids(result), Result.top_token_ids_length(result));
  words32(Result.top_logprob(result), Result.top_logprob_length(result));
  words32(Result.score_logprob(result), Result.score_logprob_length(result));
  words32(Result.score_rank(result), Result.score_rank_length(result));
  words32(Result.score_top_end(result), Result.score_top_end_length(result));
  words32(Result.score_top_token_ids(result), Result.score_top_token_ids_length(result));
  words32(Result.score_top_logprob(result), Result.score_top_logprob_length(result));
}
