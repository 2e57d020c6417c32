// Control commands that the host carries out: weights, memory, adapters, groups, shutdown.
//
// The state changes when the command is accepted, as if it had been carried out (`projected`), so that a command may build on the one before.
// The instructions go out one at a time, in order, when nothing else is in flight. If the host fails one, its change is undone, and so are
// those behind it, last first: they were accepted as if it had succeeded, and fail with its code. Shutdown alone needs nobody's success.
import { addAdapter, hasAdapter, removeAdapter, userOf } from './adapter_table';
import { CoreState, MAX_ADAPTERS, MAX_PENDING_CONTROLS, Pause } from './core_state';
import { finishAll, finishRequest, preemptAll } from './lifecycle';
import { putAck } from './output';
import { forgetPrefixes } from './prefix_cache';
import { Request } from './request';
import { runningAt } from './sequence';
import { heapAllocate, heapFree } from './token_heap';
import * as command from './wire/generated/command';
import { Instruction, Work } from './wire/generated/instruction';
import { ErrorCode, FinishReason } from './wire/generated/types';

const ALL_TAGS: u8 = command.MemoryTags.kv_cache | command.MemoryTags.weights;
const MAX_NAME_BYTES: u32 = 4096;

@unmanaged
export class Control {
  command: u64;
  version: u64;
  versionBefore: u64; // of FinishWeightUpdate: the projected version that it replaced
  usableBefore: bool;
  work: u32; // Work
  adapter: u32;
  tags: u32;
  succeeded: bool;
  tensorParallelSize: u32;
  pipelineParallelSize: u32;
  dataParallelSize: u32;
  rank: u32;
  strings: usize; // name, then path, in the token heap; 0 = none
  nameBytes: u32;
  pathBytes: u32;
}

export const CONTROL_BYTES: usize = (offsetof<Control>() + 7) & ~7;

function controlAt(c: CoreState, index: u32): Control {
  return changetype<Control>(c.controls + <usize>(index % MAX_PENDING_CONTROLS) * CONTROL_BYTES);
}

/** A cleared control at the end of the queue, or an acknowledged refusal and null. */
function enqueue(c: CoreState, id: u64, work: u8): Control | null {
  if (c.numPendingControls == MAX_PENDING_CONTROLS) {
    putAck(c, id, ErrorCode.command_in_progress, <i64>c.numPendingControls, <i64>MAX_PENDING_CONTROLS);
    return null;
  }
  const control = controlAt(c, c.firstPendingControl + c.numPendingControls++);
  memory.fill(changetype<usize>(control), 0, CONTROL_BYTES);
  control.command = id;
  control.work = work;
  return control;
}

export function beginWeightUpdate(c: CoreState, id: u64): void {
  if (c.updatingWeights) return putAck(c, id, ErrorCode.weight_update_in_progress);
  if ((c.released & command.MemoryTags.weights) != 0) return putAck(c, id, ErrorCode.memory_released);
  if (c.pause != Pause.paused && c.numLive > 0)
    return putAck(c, id, ErrorCode.requests_running, <i64>c.numLive);
  if (enqueue(c, id, Work.BeginWeightUpdate)) c.updatingWeights = true;
}

export function finishWeightUpdate(c: CoreState, id: u64, version: u64, succeeded: bool): void {
  if (!c.updatingWeights) return putAck(c, id, ErrorCode.no_weight_update);
  if (succeeded && version <= c.projectedWeightVersion) {
    return putAck(c, id, ErrorCode.weight_version_not_monotonic, <i64>version, <i64>c.projectedWeightVersion);
  }
  const control = enqueue(c, id, Work.FinishWeightUpdate);
  if (!control) return;
  control.version = version;
  control.succeeded = succeeded;
  control.versionBefore = c.projectedWeightVersion;
  control.usableBefore = c.weightsUsable;
  c.updatingWeights = false;
  c.weightsUsable = succeeded;
  if (succeeded) c.projectedWeightVersion = version;
}

export function releaseMemory(c: CoreState, id: u64, tags: u8, abortRunning: bool): void {
  if (tags == 0 || tags > ALL_TAGS)
    return putAck(c, id, ErrorCode.invalid_argument, <i64>tags, <i64>ALL_TAGS);
  if ((c.released & tags) != 0) return putAck(c, id, ErrorCode.memory_released);
  const control = enqueue(c, id, Work.ReleaseMemory);
  if (!control) return;
  control.tags = tags;
  c.released |= tags;
  if (abortRunning) finishAll(c, FinishReason.abort);
  if ((tags & command.MemoryTags.kv_cache) != 0) {
    preemptAll(c);
    forgetPrefixes(c);
  }
}

export function resumeMemory(c: CoreState, id: u64, tags: u8): void {
  if (tags == 0 || tags > ALL_TAGS)
    return putAck(c, id, ErrorCode.invalid_argument, <i64>tags, <i64>ALL_TAGS);
  if ((c.released & tags) != tags) return putAck(c, id, ErrorCode.memory_not_released);
  const control = enqueue(c, id, Work.ResumeMemory);
  if (!control) return;
  control.tags = tags;
  c.released &= ~tags;
}

export function loadAdapter(c: CoreState, id: u64, table: usize): void {
  const adapter = command.LoadAdapter.adapter(table);
  const nameBytes = command.LoadAdapter.name_length(table);
  const pathBytes = command.LoadAdapter.path_length(table);
  if (adapter == 0) return putAck(c, id, ErrorCode.invalid_argument);
  if (nameBytes > MAX_NAME_BYTES)
    return putAck(c, id, ErrorCode.invalid_argument, <i64>nameBytes, <i64>MAX_NAME_BYTES);
  if (pathBytes > MAX_NAME_BYTES)
    return putAck(c, id, ErrorCode.invalid_argument, <i64>pathBytes, <i64>MAX_NAME_BYTES);
  if (hasAdapter(c, adapter)) return putAck(c, id, ErrorCode.adapter_exists, <i64>adapter);
  if (c.numAdapters >= MAX_ADAPTERS)
    return putAck(c, id, ErrorCode.too_many_adapters, <i64>c.numAdapters + 1, <i64>MAX_ADAPTERS);
  const strings = heapAllocate(c, <u64>nameBytes + <u64>pathBytes + 1);
  if (strings == 0) return putAck(c, id, ErrorCode.out_of_token_memory);
  const control = enqueue(c, id, Work.LoadAdapter);
  if (!control) return heapFree(c, strings);
  memory.copy(strings, command.LoadAdapter.name(table), <usize>nameBytes);
  memory.copy(strings + <usize>nameBytes, command.LoadAdapter.path(table), <usize>pathBytes);
  control.strings = strings;
  control.nameBytes = nameBytes;
  control.pathBytes = pathBytes;
  control.adapter = adapter;
  addAdapter(c, adapter);
}

export function unloadAdapter(c: CoreState, id: u64, adapter: u32): void {
  if (adapter == 0 || !hasAdapter(c, adapter)) return putAck(c, id, ErrorCode.unknown_adapter, <i64>adapter);
  if (userOf(c, adapter) != 0) return putAck(c, id, ErrorCode.adapter_in_use, <i64>adapter);
  const control = enqueue(c, id, Work.UnloadAdapter);
  if (!control) return;
  control.adapter = adapter;
  removeAdapter(c, adapter);
  // An adapter of the same number may follow: what this one computed must not be hit.
  forgetPrefixes(c);
}

export function setParallelGroups(c: CoreState, id: u64, table: usize): void {
  const tensor = command.SetParallelGroups.tensor_parallel_size(table);
  const pipeline = command.SetParallelGroups.pipeline_parallel_size(table);
  const data = command.SetParallelGroups.data_parallel_size(table);
  if (tensor == 0 || pipeline == 0 || data == 0) return putAck(c, id, ErrorCode.invalid_argument, 0, 1);
  if (c.numLive > 0) return putAck(c, id, ErrorCode.requests_running, <i64>c.numLive);
  const control = enqueue(c, id, Work.SetParallelGroups);
  if (!control) return;
  control.tensorParallelSize = tensor;
  control.pipelineParallelSize = pipeline;
  control.dataParallelSize = data;
  control.rank = command.SetParallelGroups.rank(table);
}

export function shutDown(c: CoreState, id: u64): void {
  if (!enqueue(c, id, Work.Shutdown)) return;
  finishAll(c, FinishReason.abort);
  c.shutDown = true;
}

/** Writes the oldest pending control as an Instruction and gives its size. */
export function writeControl(c: CoreState, buffer: usize): u32 {
  const control = controlAt(c, c.firstPendingControl);
  const instruction = Instruction.start_root(buffer);
  Instruction.set_step(instruction, c.step);
  Instruction.set_weight_version(instruction, c.weightVersion);
  const at = Instruction.end_of(instruction);
  let child: usize;
  let end: usize;
  switch (<u8>control.work) {
    case Work.BeginWeightUpdate:
      child = command.BeginWeightUpdate.start(at);
      end = command.BeginWeightUpdate.end_of(child);
      break;
    case Work.FinishWeightUpdate:
      child = command.FinishWeightUpdate.start(at);
      end = command.FinishWeightUpdate.end_of(child);
      command.FinishWeightUpdate.set_version(child, control.version);
      command.FinishWeightUpdate.set_succeeded(child, control.succeeded);
      break;
    case Work.ReleaseMemory:
      child = command.ReleaseMemory.start(at);
      end = command.ReleaseMemory.end_of(child);
      command.ReleaseMemory.set_tags(child, <u8>control.tags);
      break;
    case Work.ResumeMemory:
      child = command.ResumeMemory.start(at);
      end = command.ResumeMemory.end_of(child);
      command.ResumeMemory.set_tags(child, <u8>control.tags);
      break;
    case Work.LoadAdapter:
      child = command.LoadAdapter.start(at);
      command.LoadAdapter.set_adapter(child, control.adapter);
      end = command.LoadAdapter.put_name(
        child,
        command.LoadAdapter.end_of(child),
        control.strings,
        control.nameBytes,
      );
      end = command.LoadAdapter.put_path(
        child,
        end,
        control.strings + <usize>control.nameBytes,
        control.pathBytes,
      );
      break;
    case Work.UnloadAdapter:
      child = command.UnloadAdapter.start(at);
      end = command.UnloadAdapter.end_of(child);
      command.UnloadAdapter.set_adapter(child, control.adapter);
      break;
    case Work.SetParallelGroups:
      child = command.SetParallelGroups.start(at);
      end = command.SetParallelGroups.end_of(child);
      command.SetParallelGroups.set_tensor_parallel_size(child, control.tensorParallelSize);
      command.SetParallelGroups.set_pipeline_parallel_size(child, control.pipelineParallelSize);
      command.SetParallelGroups.set_data_parallel_size(child, control.dataParallelSize);
      command.SetParallelGroups.set_rank(child, control.rank);
      break;
    default:
      child = command.Shutdown.start(at);
      end = command.Shutdown.end_of(child);
      break;
  }
  Instruction.link_work(instruction, <u8>control.work, child);
  return <u32>(end - buffer);
}

/** The host has answered the oldest control: acknowledges it; when it failed, undoes it and all that was built on it. */
export function commitControl(c: CoreState, code: u16): void {
  const control = controlAt(c, c.firstPendingControl);
  if (code == ErrorCode.none) {
    carriedOut(c, control);
    conclude(c, code);
    return;
  }
  const last = controlAt(c, c.firstPendingControl + c.numPendingControls - 1);
  const keepsLast = last != control && <u8>last.work == Work.Shutdown;
  const failing = c.numPendingControls - (keepsLast ? 1 : 0);
  for (let index = failing; index-- > 0; ) undo(c, controlAt(c, c.firstPendingControl + index));
  // What the host has half done can't be used; a new update mends it.
  if (<u8>control.work == Work.FinishWeightUpdate) {
    c.updatingWeights = false;
    c.weightsUsable = false;
  }
  for (let index: u32 = 0; index < failing; index++) conclude(c, code);
}

/** Acknowledges the oldest control and takes it off the queue. */
function conclude(c: CoreState, code: u16): void {
  const control = controlAt(c, c.firstPendingControl);
  c.firstPendingControl = (c.firstPendingControl + 1) % MAX_PENDING_CONTROLS;
  c.numPendingControls--;
  if (control.strings != 0) heapFree(c, control.strings);
  putAck(c, control.command, code);
}

function carriedOut(c: CoreState, control: Control): void {
  if (<u8>control.work != Work.FinishWeightUpdate || !control.succeeded) return;
  c.weightVersion = control.version;
  forgetPrefixes(c);
  for (let index: u32 = 0; index < c.numRunning; index++) {
    const sequence = runningAt(c, index);
    if (sequence.computed > 0) sequence.skipsCache = true;
  }
}

/** The state is as if the control had never been accepted. */
function undo(c: CoreState, control: Control): void {
  switch (<u8>control.work) {
    case Work.BeginWeightUpdate:
      c.updatingWeights = false;
      break;
    case Work.FinishWeightUpdate:
      c.updatingWeights = true;
      c.weightsUsable = control.usableBefore;
      c.projectedWeightVersion = control.versionBefore;
      break;
    case Work.ReleaseMemory:
      c.released &= ~(<u8>control.tags);
      break;
    case Work.ResumeMemory:
      c.released |= <u8>control.tags;
      break;
    case Work.LoadAdapter: {
      removeAdapter(c, control.adapter);
      let user = userOf(c, control.adapter);
      while (user != 0) {
        finishRequest(c, changetype<Request>(user), FinishReason.error, ErrorCode.unknown_adapter);
        user = userOf(c, control.adapter);
      }
      break;
    }
    case Work.UnloadAdapter:
      addAdapter(c, control.adapter);
      break;
  }
}
