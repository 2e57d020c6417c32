// What a result changes: blocks become hits for others, tokens are delivered, samples end.
import { CoreState } from './core_state';
import { bury, finishRequest, finishSequence } from './lifecycle';
import { putScores } from './output';
import { listFullBlocks, registerListed } from './prefix_cache';
import { Request, stopTokensOf } from './request';
import { appendToken, Sequence, SequenceState } from './sequence';
import { oldestRecord, StepRecord, sequenceOf } from './step_record';
import { ErrorCode, FinishReason } from './wire/generated/types';

function isLive(sequence: Sequence): bool {
  return sequence.state == SequenceState.running || sequence.state == SequenceState.waiting;
}

/** The whole step failed: what it computed is void, so its sequences end, and those that built on it; the others go on. */
export function commitFailure(c: CoreState, record: StepRecord, code: u16): void {
  for (let index: u32 = 0; index < record.numSamples; index++)
    sequenceOf(record.samples, index).samplesInFlight--;
  for (let index: u32 = 0; index < record.numSequences; index++) {
    const sequence = sequenceOf(record.sequences, index);
    sequence.stepsInFlight--;
    if (isLive(sequence)) finishSequence(c, sequence, FinishReason.error, -1, code);
    else if (sequence.stepsInFlight == 0) bury(c, sequence);
  }
  if (c.numStepsInFlight > 0) failFanOuts(c, record, oldestRecord(c), code);
  failScored(c, record, code);
}

/** Prompt log-probs are planned once: a request whose own the step was to give can't have them any more, whoever computed them. */
function failScored(c: CoreState, record: StepRecord, code: u16): void {
  for (let index: u32 = 0; index < record.numScored; index++) {
    const request = scoredRequest(record, index);
    if (request != 0) finishRequest(c, changetype<Request>(request), FinishReason.error, code);
  }
}

/** The request of the record's entry, 0 when it has ended since (its memory may be another's). */
function scoredRequest(record: StepRecord, index: u32): usize {
  const at = (<usize>index) << 2;
  const request = changetype<Request>(<usize>load<u32>(record.scoredRequests + at));
  const arrival = load<u64>(record.scoredArrivals + (at << 1));
  return request.live && request.arrival == arrival ? changetype<usize>(request) : 0;
}

/** The step behind may have fanned a prompt out that the failed one helped to compute: those samples share its void blocks. */
function failFanOuts(c: CoreState, failed: StepRecord, behind: StepRecord, code: u16): void {
  if (behind.isControl) return;
  let leaderFailed = false;
  for (let index: u32 = 0; index < behind.numSequences; index++) {
    const sequence = sequenceOf(behind.sequences, index);
    if (sequence.fannedOutStep != behind.step) leaderFailed = computes(failed, sequence);
    else if (leaderFailed && isLive(sequence)) finishSequence(c, sequence, FinishReason.error, -1, code);
  }
}

function computes(record: StepRecord, sequence: Sequence): bool {
  for (let index: u32 = 0; index < record.numSequences; index++) {
    if (sequenceOf(record.sequences, index) == sequence) return true;
  }
  return false;
}

/** `rowCodes` 0: every row is well. The vectors have been checked against the record. */
export function commitSamples(c: CoreState, record: StepRecord, tokens: usize, rowCodes: usize): void {
  if (rowCodes != 0) distrustFailedRows(record, rowCodes);
  let someAreOver = false; // ended while this step was in flight, or have only to score: looked at again at the end
  for (let index: u32 = 0; index < record.numSequences; index++) {
    const sequence = sequenceOf(record.sequences, index);
    sequence.stepsInFlight--;
    if (sequence.state == SequenceState.ended || sequence.scoresOnly) someAreOver = true;
    if (
      sequence.state == SequenceState.running &&
      load<u32>(record.epochs + ((<usize>index) << 2)) == sequence.epoch
    ) {
      listFullBlocks(c, sequence, load<u32>(record.ends + ((<usize>index) << 2)));
    }
  }
  registerListed(c);
  deliverScores(c, record);
  deliverTokens(c, record, tokens, rowCodes);
  for (let index: u32 = 0; someAreOver && index < record.numSequences; index++) {
    const sequence = sequenceOf(record.sequences, index);
    if (sequence.state == SequenceState.ended && sequence.stepsInFlight == 0) bury(c, sequence);
    else if (endsWithoutOutput(record, sequence, index))
      finishSequence(c, sequence, FinishReason.length, -1, ErrorCode.none);
  }
}

/** What made a row fail (NaN) may stand in the KV behind it: others must not hit that. */
function distrustFailedRows(record: StepRecord, rowCodes: usize): void {
  for (let index: u32 = 0; index < record.numSamples; index++) {
    if (load<u16>(rowCodes + ((<usize>index) << 1)) != ErrorCode.none)
      sequenceOf(record.samples, index).skipsCache = true;
  }
}

/** A request that only scores its prompt (max_tokens 0) is over when the prompt is committed. */
function endsWithoutOutput(record: StepRecord, sequence: Sequence, index: u32): bool {
  return (
    sequence.state == SequenceState.running &&
    sequence.scoresOnly &&
    load<u32>(record.epochs + ((<usize>index) << 2)) == sequence.epoch &&
    load<u32>(record.ends + ((<usize>index) << 2)) == sequence.maxTotal
  );
}

function deliverScores(c: CoreState, record: StepRecord): void {
  for (let index: u32 = 0; index < record.numScored; index++) {
    const at = (<usize>index) << 2;
    const request = scoredRequest(record, index);
    if (request == 0) continue;
    putScores(
      c,
      changetype<Request>(request).id,
      load<u32>(record.scoredPositions + at),
      load<u32>(record.scoredFirst + at),
      load<u32>(record.scoredCounts + at),
    );
  }
}

/** Columns and counts in locals: their addresses would be read again for every token. */
function deliverTokens(c: CoreState, record: StepRecord, tokens: usize, rowCodes: usize): void {
  const samples = record.samples;
  const numSamples = record.numSamples;
  const vocabSize = c.vocabSize;
  const first = c.numOutTokens;
  let request = c.outTokenRequest + ((<usize>first) << 3);
  let sample = c.outTokenSample + ((<usize>first) << 2);
  let row = c.outTokenRow + ((<usize>first) << 2);
  let id = c.outTokenId + ((<usize>first) << 2);
  let delivered: u32 = 0;
  for (let index: u32 = 0; index < numSamples; index++) {
    const sequence = sequenceOf(samples, index);
    sequence.samplesInFlight--;
    if (!isLive(sequence)) continue;
    const token = load<i32>(tokens + ((<usize>index) << 2));
    const code = rowCodes != 0 ? load<u16>(rowCodes + ((<usize>index) << 1)) : ErrorCode.none;
    if (code != ErrorCode.none) {
      finishSequence(c, sequence, FinishReason.error, -1, code);
    } else if (<u32>token >= vocabSize) {
      const limit = <i64>vocabSize - 1;
      finishSequence(c, sequence, FinishReason.error, -1, ErrorCode.token_out_of_range, <i64>token, limit);
    } else if (!appendToken(c, sequence, token)) {
      finishSequence(c, sequence, FinishReason.error, -1, ErrorCode.out_of_token_memory);
    } else {
      store<u64>(request, sequence.requestId);
      store<u32>(sample, sequence.sample);
      store<u32>(row, index);
      store<i32>(id, token);
      request += 8;
      sample += 4;
      row += 4;
      id += 4;
      delivered++;
      if (sequence.numTokens >= sequence.minTotal && isStop(c, sequence, token)) {
        finishSequence(c, sequence, FinishReason.stop, token, ErrorCode.none);
      } else if (sequence.numTokens == sequence.maxTotal) {
        finishSequence(c, sequence, FinishReason.length, -1, ErrorCode.none);
      }
    }
  }
  c.numOutTokens = first + delivered;
  c.generationTokens += <u64>delivered;
}

function isStop(c: CoreState, sequence: Sequence, token: i32): bool {
  if (sequence.ignoreEos && !sequence.hasStopTokens) return false;
  if (!sequence.ignoreEos) {
    for (let index: u32 = 0; index < c.numEosTokenIds; index++) {
      if (load<i32>(c.eosTokenIds + ((<usize>index) << 2)) == token) return true;
    }
  }
  if (!sequence.hasStopTokens) return false;
  const request = changetype<Request>(sequence.request);
  const stops = stopTokensOf(request);
  for (let index: u32 = 0; index < request.numStopTokens; index++) {
    if (load<i32>(stops + ((<usize>index) << 2)) == token) return true;
  }
  return false;
}
