// The Output being gathered: columns that apply, schedule and commit append to, and that the next apply or commit hands out.
import { ACK_COLUMNS, CoreState, EARLY_OUTPUT, MAX_ACKS } from './core_state';
import { ensure } from './errors';
import { Request } from './request';
import { Output } from './wire/generated/output';
import { ErrorCode, FinishReason } from './wire/generated/types';

// Acknowledgements have their columns at a fixed address: Configure itself can be refused.
const ACK_COMMAND: usize = ACK_COLUMNS;
const ACK_CODE: usize = ACK_COMMAND + <usize>MAX_ACKS * 8;
const ACK_VALUE: usize = ACK_CODE + <usize>MAX_ACKS * 8;
const ACK_LIMIT: usize = ACK_VALUE + <usize>MAX_ACKS * 8;

export function putAck(c: CoreState, command: u64, code: u16, value: i64 = 0, limit: i64 = 0): void {
  const at = c.numOutAcks++;
  ensure(at < MAX_ACKS, 'acknowledgements fit their columns');
  store<u64>(ACK_COMMAND + (at << 3), command);
  store<u16>(ACK_CODE + (at << 1), code);
  store<i64>(ACK_VALUE + (at << 3), value);
  store<i64>(ACK_LIMIT + (at << 3), limit);
}

export function putScores(c: CoreState, request: u64, position: u32, first: u32, count: u32): void {
  const at = c.numOutScores++;
  store<u64>(c.outScoreRequest + (at << 3), request);
  store<u32>(c.outScorePosition + (at << 2), position);
  store<u32>(c.outScoreFirst + (at << 2), first);
  store<u32>(c.outScoreCount + (at << 2), count);
}

export function putStart(c: CoreState, request: Request, cachedTokens: u32): void {
  const at = c.numOutStarts++;
  store<u64>(c.outStartRequest + (at << 3), request.id);
  store<u32>(c.outStartCachedTokens + (at << 2), cachedTokens);
}

export function putFinish(
  c: CoreState,
  request: u64,
  sample: u32,
  count: u32,
  reason: u8,
  stopToken: i32,
  code: u16,
  value: i64,
  limit: i64,
  preemptions: u32,
): void {
  const at = c.numOutFinishes++;
  store<u64>(c.outFinishRequest + (at << 3), request);
  store<u32>(c.outFinishSample + (at << 2), sample);
  store<u32>(c.outFinishCount + (at << 2), count);
  store<u8>(c.outFinishReason + at, reason);
  store<i32>(c.outFinishStopToken + (at << 2), stopToken);
  store<u16>(c.outFinishCode + (at << 1), code);
  store<i64>(c.outFinishValue + (at << 3), value);
  store<i64>(c.outFinishLimit + (at << 3), limit);
  store<u32>(c.outFinishPreemptions + (at << 2), preemptions);
  c.finishedSamples += <u64>count;
}

/** A request that was never accepted: all its samples end at once. */
export function putRefusal(c: CoreState, request: u64, n: u32, code: u16, value: i64, limit: i64): void {
  ensure(code != ErrorCode.none, 'a refusal has a code');
  putFinish(c, request, 0, n, FinishReason.error, -1, code, value, limit, 0);
  c.finishedSamples -= <u64>n;
}

/** Assembles the Output and empties the columns. Gives its address; its size goes to `c.messageBytes`. */
export function takeOutput(c: CoreState): usize {
  const buffer = c.configured ? c.output : EARLY_OUTPUT;
  const output = Output.start_root(buffer);
  Output.set_step(output, c.outputStep);
  Output.set_weight_version(output, c.outputWeightVersion);
  let at = Output.end_of(output);
  at = Output.put_token_request(output, at, c.outTokenRequest, c.numOutTokens);
  at = Output.put_token_sample(output, at, c.outTokenSample, c.numOutTokens);
  at = Output.put_token_row(output, at, c.outTokenRow, c.numOutTokens);
  at = Output.put_token_id(output, at, c.outTokenId, c.numOutTokens);
  at = Output.put_score_request(output, at, c.outScoreRequest, c.numOutScores);
  at = Output.put_score_position(output, at, c.outScorePosition, c.numOutScores);
  at = Output.put_score_first(output, at, c.outScoreFirst, c.numOutScores);
  at = Output.put_score_count(output, at, c.outScoreCount, c.numOutScores);
  at = Output.put_finish_request(output, at, c.outFinishRequest, c.numOutFinishes);
  at = Output.put_finish_sample(output, at, c.outFinishSample, c.numOutFinishes);
  at = Output.put_finish_count(output, at, c.outFinishCount, c.numOutFinishes);
  at = Output.put_finish_reason(output, at, c.outFinishReason, c.numOutFinishes);
  at = Output.put_finish_stop_token(output, at, c.outFinishStopToken, c.numOutFinishes);
  at = Output.put_finish_code(output, at, c.outFinishCode, c.numOutFinishes);
  at = Output.put_finish_value(output, at, c.outFinishValue, c.numOutFinishes);
  at = Output.put_finish_limit(output, at, c.outFinishLimit, c.numOutFinishes);
  at = Output.put_finish_preemptions(output, at, c.outFinishPreemptions, c.numOutFinishes);
  at = Output.put_start_request(output, at, c.outStartRequest, c.numOutStarts);
  at = Output.put_start_cached_tokens(output, at, c.outStartCachedTokens, c.numOutStarts);
  at = Output.put_ack_command(output, at, ACK_COMMAND, c.numOutAcks);
  at = Output.put_ack_code(output, at, ACK_CODE, c.numOutAcks);
  at = Output.put_ack_value(output, at, ACK_VALUE, c.numOutAcks);
  at = Output.put_ack_limit(output, at, ACK_LIMIT, c.numOutAcks);
  c.messageBytes = <u32>(at - buffer);
  c.outputStep = 0;
  c.outputWeightVersion = 0;
  c.numOutTokens = 0;
  c.numOutScores = 0;
  c.numOutFinishes = 0;
  c.numOutStarts = 0;
  c.numOutAcks = 0;
  return buffer;
}
