// The core: apply a command, schedule an instruction, commit a result. All branching on what enters is here; each branch is one call.
import { addRequest } from './admission';
import { commitFailure, commitSamples } from './commit';
import { configure } from './configure';
import {
  beginWeightUpdate,
  commitControl,
  finishWeightUpdate,
  loadAdapter,
  releaseMemory,
  resumeMemory,
  setParallelGroups,
  shutDown,
  unloadAdapter,
  writeControl,
} from './control_queue';
import { CoreState, Pause } from './core_state';
import { digestOf } from './digest';
import { finishAll, finishRequest, preemptAll } from './lifecycle';
import { putAck, takeOutput } from './output';
import { pause, resume, settlePause } from './pause';
import { writePlan } from './plan';
import { forgetPrefixes } from './prefix_cache';
import { findRequest, Request } from './request';
import { planStep } from './scheduler';
import { compactRunning } from './sequence';
import { clearRecord, nextRecord, nextRecordIndex, oldestRecord } from './step_record';
import * as command from './wire/generated/command';
import { Result } from './wire/generated/result';
import { ErrorCode, FinishReason } from './wire/generated/types';

/** Codes above it are of no version that this core knows. */
const LAST_CODE: u16 = ErrorCode.too_many_steps_in_flight;

/** Carries out one command; everything about it is in the Output, refusals too. */
export function apply(c: CoreState, buffer: usize, bytes: u32): usize {
  if (!command.Command.verify_root(buffer, bytes)) {
    putAck(c, 0, ErrorCode.malformed_message);
    return takeOutput(c);
  }
  const message = command.Command.root(buffer);
  carryOut(
    c,
    command.Command.id(message),
    command.Command.payload_type(message),
    command.Command.payload(message),
  );
  if (c.configured) {
    compactRunning(c);
    settlePause(c);
  }
  return takeOutput(c);
}

function carryOut(c: CoreState, id: u64, type: u8, table: usize): void {
  if (table == 0) return putAck(c, id, ErrorCode.malformed_message);
  if (type == command.CommandPayload.Configure) return configure(c, id, table);
  if (!c.configured) return putAck(c, id, ErrorCode.not_configured);
  if (type == command.CommandPayload.AddRequests) return addRequests(c, id, table);
  if (c.shutDown) return putAck(c, id, ErrorCode.shut_down);
  switch (type) {
    case command.CommandPayload.AbortRequests:
      return abortRequests(c, id, table);
    case command.CommandPayload.PauseGeneration:
      return pause(c, id, command.PauseGeneration.mode(table));
    case command.CommandPayload.ResumeGeneration:
      return resume(c, id);
    case command.CommandPayload.ResetPrefixCache:
      return resetPrefixCache(c, id, command.ResetPrefixCache.force(table));
    case command.CommandPayload.BeginWeightUpdate:
      return beginWeightUpdate(c, id);
    case command.CommandPayload.FinishWeightUpdate:
      return finishWeightUpdate(
        c,
        id,
        command.FinishWeightUpdate.version(table),
        command.FinishWeightUpdate.succeeded(table),
      );
    case command.CommandPayload.ReleaseMemory:
      return releaseMemory(
        c,
        id,
        command.ReleaseMemory.tags(table),
        command.ReleaseMemory.abort_running(table),
      );
    case command.CommandPayload.ResumeMemory:
      return resumeMemory(c, id, command.ResumeMemory.tags(table));
    case command.CommandPayload.LoadAdapter:
      return loadAdapter(c, id, table);
    case command.CommandPayload.UnloadAdapter:
      return unloadAdapter(c, id, command.UnloadAdapter.adapter(table));
    case command.CommandPayload.SetParallelGroups:
      return setParallelGroups(c, id, table);
    case command.CommandPayload.Shutdown:
      return shutDown(c, id);
    default:
      return putAck(c, id, ErrorCode.malformed_message);
  }
}

function addRequests(c: CoreState, id: u64, table: usize): void {
  const count = command.AddRequests.requests_length(table);
  if (count > c.maxNumRequests)
    return putAck(c, id, ErrorCode.invalid_argument, <i64>count, <i64>c.maxNumRequests);
  for (let index: u32 = 0; index < count; index++)
    addRequest(c, command.AddRequests.requests_at(table, index));
  putAck(c, id, ErrorCode.none);
}

function abortRequests(c: CoreState, id: u64, table: usize): void {
  if (command.AbortRequests.all(table)) finishAll(c, FinishReason.abort);
  const count = command.AbortRequests.request_ids_length(table);
  const ids = command.AbortRequests.request_ids(table);
  for (let index: u32 = 0; index < count; index++) {
    const request = findRequest(c, load<u64>(ids + ((<usize>index) << 3)));
    if (request != 0) finishRequest(c, changetype<Request>(request), FinishReason.abort, ErrorCode.none);
  }
  putAck(c, id, ErrorCode.none);
}

function resetPrefixCache(c: CoreState, id: u64, force: bool): void {
  if (c.numRunning > 0 && !force) return putAck(c, id, ErrorCode.requests_running, <i64>c.numRunning);
  preemptAll(c);
  forgetPrefixes(c);
  putAck(c, id, ErrorCode.none);
}

/** Whether steps may be planned at all. */
function mayRun(c: CoreState): bool {
  return c.pause != Pause.paused && c.released == 0 && !c.updatingWeights && c.weightsUsable && !c.shutDown;
}

/** The next instruction, or 0 when there is nothing to do or enough in flight. Its size goes to `c.messageBytes`. */
export function schedule(c: CoreState): usize {
  if (!c.configured || c.controlInFlight || c.numStepsInFlight >= c.maxStepsInFlight) return 0;
  const isControl = c.numPendingControls > 0;
  if (isControl && c.numStepsInFlight > 0) return 0;
  if (!isControl && !mayRun(c)) return 0;
  c.step++;
  const record = nextRecord(c);
  clearRecord(c, record);
  const buffer = c.instructions + <usize>nextRecordIndex(c) * <usize>c.instructionCapacity;
  let bytes: u32;
  if (isControl) {
    record.isControl = true;
    c.controlInFlight = true;
    bytes = writeControl(c, buffer);
  } else {
    if (!planStep(c)) {
      c.step--;
      return 0;
    }
    c.computedTokens += <u64>c.numRows;
    bytes = writePlan(c, buffer);
  }
  const padded = (bytes + 7) & ~7;
  memory.fill(buffer + <usize>bytes, 0, <usize>(padded - bytes));
  c.digest = digestOf(c.digest, buffer, padded);
  c.numStepsInFlight++;
  c.messageBytes = bytes;
  return buffer;
}

/** Takes the result of the oldest instruction in flight. Another one is refused and changes nothing. */
export function commit(c: CoreState, buffer: usize, bytes: u32): usize {
  const code = judgeResult(c, buffer, bytes);
  if (code != ErrorCode.none) {
    putAck(c, 0, code);
    return takeOutput(c);
  }
  const result = Result.root(buffer);
  const record = oldestRecord(c);
  c.outputStep = record.step;
  c.outputWeightVersion = record.weightVersion;
  c.oldestRecord++;
  c.numStepsInFlight--;
  if (record.isControl) {
    c.controlInFlight = false;
    commitControl(c, Result.code(result));
  } else if (Result.code(result) != ErrorCode.none) {
    commitFailure(c, record, Result.code(result));
  } else {
    commitSamples(
      c,
      record,
      Result.token_ids(result),
      Result.row_code_length(result) > 0 ? Result.row_code(result) : 0,
    );
  }
  compactRunning(c);
  settlePause(c);
  return takeOutput(c);
}

function judgeResult(c: CoreState, buffer: usize, bytes: u32): u16 {
  if (!c.configured) return ErrorCode.not_configured;
  if (!Result.verify_root(buffer, bytes)) return ErrorCode.result_malformed;
  const result = Result.root(buffer);
  if (c.numStepsInFlight == 0) return ErrorCode.result_unexpected;
  const record = oldestRecord(c);
  if (Result.step(result) != record.step) return ErrorCode.result_unexpected;
  if (Result.code(result) > LAST_CODE) return ErrorCode.result_malformed;
  if (record.isControl || Result.code(result) != ErrorCode.none) return ErrorCode.none;
  const rowCodes = Result.row_code_length(result);
  if (Result.token_ids_length(result) != record.numSamples) return ErrorCode.result_malformed;
  if (rowCodes != 0 && rowCodes != record.numSamples) return ErrorCode.result_malformed;
  for (let index: u32 = 0; index < rowCodes; index++) {
    if (load<u16>(Result.row_code(result) + ((<usize>index) << 1)) > LAST_CODE)
      return ErrorCode.result_malformed;
  }
  const scores = Result.score_logprob_length(result);
  if (scores != record.numScores) return ErrorCode.result_malformed;
  return ErrorCode.none;
}
