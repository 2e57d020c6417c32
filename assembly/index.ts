// The module's exports: bytes in, bytes out. Each message returned lies in this memory; `message_bytes` is the size of the last one.

import { bytesFor, shape } from './configure';
import * as core from './core';
import {
  CORE_ADDRESS,
  CoreState,
  EARLY_COMMAND,
  EARLY_COMMAND_BYTES,
  EARLY_OUTPUT,
  core as state,
} from './core_state';
import { firstBrokenRule } from './integrity';
import { writeInventory } from './inventory';
import { writeStats } from './stats';

/** Bytes of memory that a core of this shape needs, 0 when it can't be. Ask a throw-away instance. */
export function required_bytes(
  max_num_seqs: u32,
  max_num_batched_tokens: u32,
  max_model_len: u32,
  num_blocks: u32,
  block_size: u32,
  max_num_requests: u32,
  token_heap_bytes_low: u32,
  token_heap_bytes_high: u32,
): u64 {
  const c = state();
  if (
    !shape(c, max_num_seqs, max_num_batched_tokens, max_model_len, num_blocks, block_size, max_num_requests)
  )
    return 0;
  const bytes = bytesFor(c, <u64>token_heap_bytes_low | ((<u64>token_heap_bytes_high) << 32));
  memory.fill(CORE_ADDRESS, 0, offsetof<CoreState>());
  return bytes;
}

/** Where a command of this size goes before `apply`; 0 when it is too large. */
export function command_buffer(bytes: u32): usize {
  const c = state();
  if (!c.configured) return bytes <= EARLY_COMMAND_BYTES ? EARLY_COMMAND : 0;
  return bytes <= c.commandBoxBytes ? c.commandBox : 0;
}

export function result_buffer(bytes: u32): usize {
  const c = state();
  return c.configured && bytes <= c.resultBoxBytes ? c.resultBox : 0;
}

/** Carries out the command in the command buffer; gives an Output. */
export function apply(bytes: u32): usize {
  const c = state();
  return core.apply(c, command_buffer(bytes), bytes);
}

/** Gives an Instruction, unchanged until its result is committed, or 0. */
export function schedule(): usize {
  return core.schedule(state());
}

/** Takes the Result in the result buffer; gives an Output. */
export function commit(bytes: u32): usize {
  const c = state();
  return core.commit(c, c.configured ? c.resultBox : EARLY_COMMAND, bytes);
}

export function stats(): usize {
  const c = state();
  return writeStats(c, c.configured ? c.output : EARLY_OUTPUT);
}

/** Gives an Inventory; 0 before Configure. */
export function inventory(): usize {
  const c = state();
  return c.configured ? writeInventory(c, c.output) : 0;
}

export function message_bytes(): u32 {
  return state().messageBytes;
}

/** 0, or the number of the first rule of integrity.ts that does not hold. */
export function check_integrity(): u32 {
  const c = state();
  return c.configured ? firstBrokenRule(c) : 0;
}

/** A copy of the first so many bytes is a snapshot. */
export function used_bytes(): u32 {
  const c = state();
  return c.configured ? <u32>(<u64>c.heap + c.heapHighWater) : <u32>EARLY_COMMAND;
}

export function digest(): u64 {
  return state().digest;
}
