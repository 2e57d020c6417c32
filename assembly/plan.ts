// The step being planned: columns in scratch memory, one per vector of StepPlan, assembled into an Instruction at the end.
//
// Capacities are such that what a step can need always fits, but for histories, stops, biases and the shared entries of block tables:
// before these are added, the scheduler asks `hasRoomFor...` and ends an admission early when the answer is no.
import { CoreState } from './core_state';
import { biasesOf, biasTokensOf, paramsOf, Request, stopTokensOf } from './request';
import { needsHistory } from './sampling_params';
import { Sequence, tokensOf } from './sequence';
import { Instruction, StepPlan, Work } from './wire/generated/instruction';
import { SamplingParams } from './wire/generated/types';

function put(column: usize, index: u32, value: u32): void {
  store<u32>(column + ((<usize>index) << 2), value);
}

export function clearPlan(c: CoreState): void {
  c.numOpens = 0;
  c.numHistory = 0;
  c.numStops = 0;
  c.numBiases = 0;
  c.numTableChanges = 0;
  c.numCopies = 0;
  c.numSequences = 0;
  c.numRows = 0;
  c.numSamples = 0;
  c.numScores = 0;
}

export function planTableChange(c: CoreState, slot: u32, index: u32, block: u32): void {
  const at = c.numTableChanges++;
  put(c.tableSlot, at, slot);
  put(c.tableIndex, at, index);
  put(c.tableBlock, at, block);
}

export function planCopy(c: CoreState, source: u32, target: u32): void {
  const at = c.numCopies++;
  put(c.copySource, at, source);
  put(c.copyTarget, at, target);
}

/** Whether `shared` further table entries fit beside what the step can still need of its own. */
export function hasRoomForShared(c: CoreState, shared: u32): bool {
  return c.numTableChanges + shared + 2 * c.maxNumSeqs + c.maxNumBatchedTokens <= c.tableCapacity;
}

/** Whether the host's slot can be opened for a sequence of `numTokens` known tokens in this step. */
export function hasRoomToOpen(c: CoreState, request: Request, numTokens: u32): bool {
  const params = paramsOf(request);
  if (needsHistory(params) && c.numHistory + numTokens > c.historyCapacity) return false;
  if (
    SamplingParams.min_tokens(params) > 0 &&
    c.numStops + request.numStopTokens + c.numEosTokenIds > c.stopCapacity
  )
    return false;
  return c.numBiases + request.numBiases <= c.biasCapacity;
}

export function planOpen(c: CoreState, sequence: Sequence): void {
  const request = changetype<Request>(sequence.request);
  const params = paramsOf(request);
  const at = c.numOpens++;
  put(c.openSlot, at, sequence.slot);
  put(c.openSample, at, sequence.sample);
  put(c.openPromptTokens, at, sequence.numPromptTokens);
  put(c.openAdapter, at, request.adapter);
  memory.copy(c.openParams + <usize>at * SamplingParams.BYTES, params, SamplingParams.BYTES);
  if (needsHistory(params)) {
    memory.copy(
      c.history + ((<usize>c.numHistory) << 2),
      tokensOf(sequence),
      (<usize>sequence.numTokens) << 2,
    );
    c.numHistory += sequence.numTokens;
  }
  if (SamplingParams.min_tokens(params) > 0) {
    if (!sequence.ignoreEos) {
      memory.copy(c.stops + ((<usize>c.numStops) << 2), c.eosTokenIds, (<usize>c.numEosTokenIds) << 2);
      c.numStops += c.numEosTokenIds;
    }
    memory.copy(
      c.stops + ((<usize>c.numStops) << 2),
      stopTokensOf(request),
      (<usize>request.numStopTokens) << 2,
    );
    c.numStops += request.numStopTokens;
  }
  memory.copy(
    c.biasTokens + ((<usize>c.numBiases) << 2),
    biasTokensOf(request),
    (<usize>request.numBiases) << 2,
  );
  memory.copy(c.biases + ((<usize>c.numBiases) << 2), biasesOf(request), (<usize>request.numBiases) << 2);
  c.numBiases += request.numBiases;
  put(c.openHistoryEnd, at, c.numHistory);
  put(c.openStopEnd, at, c.numStops);
  put(c.openBiasEnd, at, c.numBiases);
  sequence.opened = true;
}

/** `take` positions from `sequence.computed`. A position not known yet is what the step before samples for this sequence. */
export function planRows(c: CoreState, sequence: Sequence, take: u32): void {
  const at = c.numSequences++;
  const start = sequence.computed;
  put(c.sequenceSlot, at, sequence.slot);
  put(c.sequenceStart, at, start);
  put(c.sequenceTokens, at, take);
  const rows = c.tokenIds + ((<usize>c.numRows) << 2);
  const end = start + take;
  if (take == 1) {
    store<i32>(
      rows,
      start < sequence.numTokens
        ? load<i32>(tokensOf(sequence) + ((<usize>start) << 2))
        : -1 - <i32>sequence.lastSample,
    );
  } else {
    const known = min(end, sequence.numTokens) - start;
    memory.copy(rows, tokensOf(sequence) + ((<usize>start) << 2), (<usize>known) << 2);
    if (known < take) store<i32>(rows + ((<usize>known) << 2), -1 - <i32>sequence.lastSample);
  }
  c.numRows += take;
}

/** The next token of `sequence`, after the row planned last. Gives the sample's index in the step. */
export function planSample(c: CoreState, sequence: Sequence): u32 {
  const at = c.numSamples++;
  put(c.sampleRow, at, c.numRows - 1);
  put(c.sampleSlot, at, sequence.slot);
  return at;
}

export function planScore(c: CoreState, row: u32, slot: u32, token: u32): void {
  const at = c.numScores++;
  put(c.scoreRow, at, row);
  put(c.scoreSlot, at, slot);
  put(c.scoreToken, at, token);
}

/** Assembles the Instruction in `buffer` and gives its size. */
export function writePlan(c: CoreState, buffer: usize): u32 {
  const instruction = Instruction.start_root(buffer);
  Instruction.set_step(instruction, c.step);
  Instruction.set_weight_version(instruction, c.weightVersion);
  const plan = StepPlan.start(Instruction.end_of(instruction));
  Instruction.link_work(instruction, Work.StepPlan, plan);
  let at = StepPlan.end_of(plan);
  at = StepPlan.put_open_slot(plan, at, c.openSlot, c.numOpens);
  at = StepPlan.put_open_sample(plan, at, c.openSample, c.numOpens);
  at = StepPlan.put_open_prompt_tokens(plan, at, c.openPromptTokens, c.numOpens);
  at = StepPlan.put_open_adapter(plan, at, c.openAdapter, c.numOpens);
  at = StepPlan.put_open_params(plan, at, c.openParams, c.numOpens);
  at = StepPlan.put_open_history_end(plan, at, c.openHistoryEnd, c.numOpens);
  at = StepPlan.put_history_token_ids(plan, at, c.history, c.numHistory);
  at = StepPlan.put_open_stop_end(plan, at, c.openStopEnd, c.numOpens);
  at = StepPlan.put_stop_token_ids(plan, at, c.stops, c.numStops);
  at = StepPlan.put_open_bias_end(plan, at, c.openBiasEnd, c.numOpens);
  at = StepPlan.put_bias_token_ids(plan, at, c.biasTokens, c.numBiases);
  at = StepPlan.put_bias(plan, at, c.biases, c.numBiases);
  at = StepPlan.put_table_slot(plan, at, c.tableSlot, c.numTableChanges);
  at = StepPlan.put_table_index(plan, at, c.tableIndex, c.numTableChanges);
  at = StepPlan.put_table_block(plan, at, c.tableBlock, c.numTableChanges);
  at = StepPlan.put_copy_source(plan, at, c.copySource, c.numCopies);
  at = StepPlan.put_copy_target(plan, at, c.copyTarget, c.numCopies);
  at = StepPlan.put_sequence_slot(plan, at, c.sequenceSlot, c.numSequences);
  at = StepPlan.put_sequence_start(plan, at, c.sequenceStart, c.numSequences);
  at = StepPlan.put_sequence_num_tokens(plan, at, c.sequenceTokens, c.numSequences);
  at = StepPlan.put_token_ids(plan, at, c.tokenIds, c.numRows);
  at = StepPlan.put_sample_row(plan, at, c.sampleRow, c.numSamples);
  at = StepPlan.put_sample_slot(plan, at, c.sampleSlot, c.numSamples);
  at = StepPlan.put_score_row(plan, at, c.scoreRow, c.numScores);
  at = StepPlan.put_score_slot(plan, at, c.scoreSlot, c.numScores);
  at = StepPlan.put_score_token(plan, at, c.scoreToken, c.numScores);
  return <u32>(at - buffer);
}
