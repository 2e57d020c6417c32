// The AssemblyScript writers of the golden messages: fixed examples, written as the core writes. `scratch` is where columns are made
// up before they are put: entry i of column c is 1000 c + i.

import {
  BeginWeightUpdate,
  FinishWeightUpdate,
  LoadAdapter,
  MemoryTags,
  ReleaseMemory,
  ResumeMemory,
  SetParallelGroups,
  Shutdown,
  UnloadAdapter,
} from '../../../assembly/wire/generated/command';
import { Instruction, StepPlan, Work } from '../../../assembly/wire/generated/instruction';
import { Output, Stats } from '../../../assembly/wire/generated/output';
import { ErrorCode, FinishReason, SamplingParams } from '../../../assembly/wire/generated/types';

function column32(scratch: usize, column: u32, count: u32): usize {
  for (let i: u32 = 0; i < count; i++) store<u32>(scratch + ((<usize>i) << 2), column * 1000 + i);
  return scratch;
}

function column64(scratch: usize, column: u32, count: u32): usize {
  for (let i: u32 = 0; i < count; i++) store<u64>(scratch + ((<usize>i) << 3), ((<u64>column) << 40) + i);
  return scratch;
}

function column_params(scratch: usize, count: u32): usize {
  for (let i: u32 = 0; i < count; i++) {
    const params = scratch + <usize>i * SamplingParams.BYTES;
    memory.fill(params, 0, SamplingParams.BYTES);
    store<u64>(params + SamplingParams.AT_seed, u64.MAX_VALUE - i);
    store<u32>(params + SamplingParams.AT_temperature, 0x3f000000 + i);
    store<u32>(params + SamplingParams.AT_top_p, 0x3f800000);
    store<u32>(params + SamplingParams.AT_max_tokens, 16 + i);
    store<i32>(params + SamplingParams.AT_logprobs, -1);
    store<u8>(params + SamplingParams.AT_ignore_eos, 1);
  }
  return scratch;
}

/** A step plan in which column c has `count` + (c mod 3) entries: no reader may lean on equal lengths. Returns its size. */
export function write_step_plan(buffer: usize, scratch: usize, count: u32): u32 {
  const instruction = Instruction.start_root(buffer);
  Instruction.set_step(instruction, 0x1_0000_0001);
  Instruction.set_weight_version(instruction, 7);
  const plan = StepPlan.start(Instruction.end_of(instruction));
  Instruction.link_work(instruction, Work.StepPlan, plan);
  let at = StepPlan.end_of(plan);
  at = StepPlan.put_open_slot(plan, at, column32(scratch, 1, count + 1), count + 1);
  at = StepPlan.put_open_sample(plan, at, column32(scratch, 2, count + 2), count + 2);
  at = StepPlan.put_open_prompt_tokens(plan, at, column32(scratch, 3, count), count);
  at = StepPlan.put_open_adapter(plan, at, column32(scratch, 4, count + 1), count + 1);
  at = StepPlan.put_open_params(plan, at, column_params(scratch, count + 2), count + 2);
  at = StepPlan.put_open_history_end(plan, at, column32(scratch, 6, count), count);
  at = StepPlan.put_history_token_ids(plan, at, column32(scratch, 7, count + 1), count + 1);
  at = StepPlan.put_open_stop_end(plan, at, column32(scratch, 8, count + 2), count + 2);
  at = StepPlan.put_stop_token_ids(plan, at, column32(scratch, 9, count), count);
  at = StepPlan.put_open_bias_end(plan, at, column32(scratch, 10, count + 1), count + 1);
  at = StepPlan.put_bias_token_ids(plan, at, column32(scratch, 11, count + 2), count + 2);
  at = StepPlan.put_bias(plan, at, column32(scratch, 12, count), count);
  at = StepPlan.put_table_slot(plan, at, column32(scratch, 13, count + 1), count + 1);
  at = StepPlan.put_table_index(plan, at, column32(scratch, 14, count + 2), count + 2);
  at = StepPlan.put_table_block(plan, at, column32(scratch, 15, count), count);
  at = StepPlan.put_copy_source(plan, at, column32(scratch, 16, count + 1), count + 1);
  at = StepPlan.put_copy_target(plan, at, column32(scratch, 17, count + 2), count + 2);
  at = StepPlan.put_sequence_slot(plan, at, column32(scratch, 18, count), count);
  at = StepPlan.put_sequence_start(plan, at, column32(scratch, 19, count + 1), count + 1);
  at = StepPlan.put_sequence_num_tokens(plan, at, column32(scratch, 20, count + 2), count + 2);
  at = StepPlan.put_token_ids(plan, at, column32(scratch, 21, count), count);
  at = StepPlan.put_sample_row(plan, at, column32(scratch, 22, count + 1), count + 1);
  at = StepPlan.put_sample_slot(plan, at, column32(scratch, 23, count + 2), count + 2);
  at = StepPlan.put_score_row(plan, at, column32(scratch, 24, count), count);
  at = StepPlan.put_score_slot(plan, at, column32(scratch, 25, count + 1), count + 1);
  at = StepPlan.put_score_token(plan, at, column32(scratch, 26, count + 2), count + 2);
  return <u32>(at - buffer);
}

/** Control work of each kind that is not a step plan. */
export function write_control(buffer: usize, scratch: usize, type: u8): u32 {
  const instruction = Instruction.start_root(buffer);
  Instruction.set_step(instruction, type);
  Instruction.set_weight_version(instruction, 3);
  const cursor = Instruction.end_of(instruction);
  let work: usize = 0;
  let at: usize = 0;
  switch (type) {
    case Work.BeginWeightUpdate:
      work = BeginWeightUpdate.start(cursor);
      at = BeginWeightUpdate.end_of(work);
      break;
    case Work.FinishWeightUpdate:
      work = FinishWeightUpdate.start(cursor);
      at = FinishWeightUpdate.end_of(work);
      FinishWeightUpdate.set_version(work, 0xffff_ffff_ffff);
      FinishWeightUpdate.set_succeeded(work, true);
      break;
    case Work.ReleaseMemory:
      work = ReleaseMemory.start(cursor);
      at = ReleaseMemory.end_of(work);
      ReleaseMemory.set_tags(work, MemoryTags.kv_cache | MemoryTags.weights);
      ReleaseMemory.set_abort_running(work, true);
      break;
    case Work.ResumeMemory:
      work = ResumeMemory.start(cursor);
      at = ResumeMemory.end_of(work);
      ResumeMemory.set_tags(work, MemoryTags.kv_cache);
      break;
    case Work.LoadAdapter:
      work = LoadAdapter.start(cursor);
      LoadAdapter.set_adapter(work, 5);
      store<u64>(scratch, 0x65646362612f2e61);
      at = LoadAdapter.put_name(work, LoadAdapter.end_of(work), scratch, 1);
      at = LoadAdapter.put_path(work, at, scratch + 1, 7);
      break;
    case Work.UnloadAdapter:
      work = UnloadAdapter.start(cursor);
      at = UnloadAdapter.end_of(work);
      UnloadAdapter.set_adapter(work, 5);
      break;
    case Work.SetParallelGroups:
      work = SetParallelGroups.start(cursor);
      at = SetParallelGroups.end_of(work);
      SetParallelGroups.set_tensor_parallel_size(work, 2);
      SetParallelGroups.set_pipeline_parallel_size(work, 3);
      SetParallelGroups.set_data_parallel_size(work, 4);
      SetParallelGroups.set_rank(work, 1);
      break;
    case Work.Shutdown:
      work = Shutdown.start(cursor);
      at = Shutdown.end_of(work);
      break;
    default:
      unreachable();
  }
  Instruction.link_work(instruction, type, work);
  return <u32>(at - buffer);
}

function small_column8(scratch: usize, count: u32): usize {
  for (let i: u32 = 0; i < count; i++)
    store<u8>(scratch + <usize>i, i % 2 == 0 ? FinishReason.stop : FinishReason.error);
  return scratch;
}

function small_column16(scratch: usize, count: u32): usize {
  for (let i: u32 = 0; i < count; i++) {
    store<u16>(scratch + ((<usize>i) << 1), i % 2 == 0 ? ErrorCode.none : ErrorCode.nan_logits);
  }
  return scratch;
}

/** As write_step_plan, but every group has `count` entries: the plain objects are made group by group. */
export function write_output(buffer: usize, scratch: usize, count: u32): u32 {
  const output = Output.start_root(buffer);
  Output.set_step(output, 9);
  Output.set_weight_version(output, u64.MAX_VALUE);
  let at = Output.end_of(output);
  at = Output.put_token_request(output, at, column64(scratch, 1, count), count);
  at = Output.put_token_sample(output, at, column32(scratch, 2, count), count);
  at = Output.put_token_row(output, at, column32(scratch, 3, count), count);
  at = Output.put_token_id(output, at, column32(scratch, 4, count), count);
  at = Output.put_score_request(output, at, column64(scratch, 5, count), count);
  at = Output.put_score_position(output, at, column32(scratch, 6, count), count);
  at = Output.put_score_first(output, at, column32(scratch, 7, count), count);
  at = Output.put_score_count(output, at, column32(scratch, 8, count), count);
  at = Output.put_finish_request(output, at, column64(scratch, 9, count), count);
  at = Output.put_finish_sample(output, at, column32(scratch, 10, count), count);
  at = Output.put_finish_count(output, at, column32(scratch, 11, count), count);
  at = Output.put_finish_reason(output, at, small_column8(scratch, count), count);
  at = Output.put_finish_stop_token(output, at, column32(scratch, 13, count), count);
  at = Output.put_finish_code(output, at, small_column16(scratch, count), count);
  at = Output.put_finish_value(output, at, column64(scratch, 15, count), count);
  at = Output.put_finish_limit(output, at, column64(scratch, 16, count), count);
  at = Output.put_finish_preemptions(output, at, column32(scratch, 17, count), count);
  at = Output.put_start_request(output, at, column64(scratch, 18, count), count);
  at = Output.put_start_cached_tokens(output, at, column32(scratch, 19, count), count);
  at = Output.put_ack_command(output, at, column64(scratch, 20, count), count);
  at = Output.put_ack_code(output, at, small_column16(scratch, count), count);
  at = Output.put_ack_value(output, at, column64(scratch, 22, count), count);
  at = Output.put_ack_limit(output, at, column64(scratch, 23, count), count);
  return <u32>(at - buffer);
}

export function write_stats(buffer: usize): u32 {
  const stats = Stats.start_root(buffer);
  Stats.set_step(stats, 1);
  Stats.set_num_steps_in_flight(stats, 2);
  Stats.set_num_running(stats, 3);
  Stats.set_num_waiting(stats, 4);
  Stats.set_num_requests(stats, 5);
  Stats.set_num_blocks(stats, 6);
  Stats.set_num_free_blocks(stats, 7);
  Stats.set_num_cached_blocks(stats, 8);
  Stats.set_num_held_blocks(stats, 9);
  Stats.set_num_preemptions(stats, 10);
  Stats.set_prompt_tokens(stats, 11);
  Stats.set_cached_prompt_tokens(stats, 12);
  Stats.set_computed_tokens(stats, 13);
  Stats.set_generation_tokens(stats, 14);
  Stats.set_finished_samples(stats, 15);
  Stats.set_weight_version(stats, 16);
  Stats.set_paused(stats, true);
  Stats.set_weights_usable(stats, true);
  Stats.set_released(stats, MemoryTags.weights);
  Stats.set_token_heap_bytes(stats, 17);
  Stats.set_token_heap_used_bytes(stats, 18);
  Stats.set_digest(stats, 0xdead_beef_cafe_f00d);
  return <u32>(Stats.end_of(stats) - buffer);
}
