// What the next step computes.
//
// 1. Running sequences, in the order of their keys, each as far as the token budget goes; when blocks run out, the last of them is
//    preempted. 2. If nothing was preempted, waiting entries in order, as long as the first one fits: none overtakes another.
// A sequence whose last known token is planned is sampled in the same step. The one that computes a request's prompt (the leader) is
// sampled once for each sample of its group: the fan-out. From then on they share its blocks, the partial one until it is written to.
import { blockAt, numAvailableBlocks } from './block_pool';
import { appendShared, blockOf, blocksFor, extendTable, mustCopy } from './block_table';
import { CoreState } from './core_state';
import { planDecodes } from './decode';
import { Entry, EntryKind } from './entry';
import { ensure } from './errors';
import { finishRequest, preempt, queueRequest } from './lifecycle';
import { putStart } from './output';
import {
  clearPlan,
  hasRoomForShared,
  hasRoomToOpen,
  planOpen,
  planRows,
  planSample,
  planScore,
} from './plan';
import { lookUpPrefix } from './prefix_cache';
import { numUnstarted, paramsOf, promptOf, Request } from './request';
import { queueFirst, queueFirstSequence, queueRemove } from './request_queue';
import {
  compactRunning,
  insertRunning,
  newSequence,
  runningAt,
  Sequence,
  SequenceState,
  takeSlot,
  tokensOf,
} from './sequence';
import { nextRecord, recordSample, recordScored, recordSequence, StepRecord } from './step_record';
import { ErrorCode, FinishReason, SamplingParams } from './wire/generated/types';

/** Fills the plan's columns and the next step's record. `c.step` is the new step's number. False when there is nothing to compute. */
export function planStep(c: CoreState): bool {
  clearPlan(c);
  const record = nextRecord(c);
  const preemptionsBefore = c.numPreemptions;
  const runningBefore = c.numRunning;
  const budget = planRunning(c, record, c.maxNumBatchedTokens);
  if (c.numPreemptions == preemptionsBefore && c.numRunning == runningBefore && c.numWaitingEntries > 0) {
    admitWaiting(c, record, budget);
  }
  compactRunning(c);
  return c.numRows > 0;
}

function prefillCap(c: CoreState, budget: u32): u32 {
  return c.longPrefillTokenThreshold > 0 ? min(c.longPrefillTokenThreshold, budget) : budget;
}

/** Known tokens and those being sampled. */
function knownSoon(sequence: Sequence): u32 {
  return sequence.numTokens + sequence.samplesInFlight;
}

/** Plans what runs; gives what is left of the budget. */
function planRunning(c: CoreState, record: StepRecord, budgetAtStart: u32): u32 {
  let budget = budgetAtStart;
  for (let index: u32 = 0; ; index++) {
    const decodes = planDecodes(c, record, index, budget);
    budget -= decodes;
    index += decodes;
    if (index >= c.numRunning || budget == 0) break;
    const sequence = runningAt(c, index);
    if (sequence.state != SequenceState.running || sequence.lastPlannedStep == c.step) continue;
    const known = knownSoon(sequence);
    const remaining = known - sequence.computed;
    if (remaining == 0 || (sequence.samplesInFlight > 0 && known >= sequence.maxTotal)) continue;
    const take = min(remaining, prefillCap(c, budget));
    if (!makeRoom(c, sequence, sequence.computed + take)) break;
    plan(c, record, sequence, take);
    budget -= take;
  }
  return budget;
}

/** Preempts from the end of the running list until the sequence's next blocks are there; false when it had to go itself. */
function makeRoom(c: CoreState, sequence: Sequence, end: u32): bool {
  while (numAvailableBlocks(c) < blocksNeeded(c, sequence, end)) {
    const victim = runningAt(c, --c.numRunning);
    if (victim.state != SequenceState.running && victim.state != SequenceState.follower) continue;
    preempt(c, victim);
    if (victim == sequence) return false;
  }
  return true;
}

function blocksNeeded(c: CoreState, sequence: Sequence, end: u32): u32 {
  const wanted = blocksFor(c, end);
  const further: u32 = wanted > sequence.numBlocks ? wanted - sequence.numBlocks : 0;
  return mustCopy(c, sequence) ? further + 1 : further;
}

/** Plans `take` positions of the sequence, for which blocks are available, and samples it if these are its last ones. */
function plan(c: CoreState, record: StepRecord, sequence: Sequence, take: u32): void {
  extendTable(c, sequence, sequence.computed + take);
  if (!sequence.opened) planOpen(c, sequence);
  const firstRow = c.numRows;
  planRows(c, sequence, take);
  if (sequence.sample == 0 && sequence.computed < sequence.numPromptTokens - 1)
    planScores(c, record, sequence, firstRow, take);
  const known = knownSoon(sequence);
  sequence.computed += take;
  sequence.lastPlannedStep = c.step;
  sequence.stepsInFlight++;
  recordSequence(record, sequence);
  if (sequence.computed < known || sequence.numTokens >= sequence.maxTotal) return;
  if (sequence.leads) fanOut(c, record, sequence);
  else sample(c, record, sequence);
}

function sample(c: CoreState, record: StepRecord, sequence: Sequence): void {
  sequence.lastSample = planSample(c, sequence);
  sequence.samplesInFlight++;
  recordSample(record, sequence);
}

function planScores(c: CoreState, record: StepRecord, sequence: Sequence, firstRow: u32, take: u32): void {
  const request = changetype<Request>(sequence.request);
  if (SamplingParams.prompt_logprobs(paramsOf(request)) < 0) return;
  const first = max(sequence.computed + 1, request.scoredPosition + 1);
  const end = min(sequence.computed + take + 1, sequence.numPromptTokens);
  if (first >= end) return;
  const tokens = tokensOf(sequence);
  for (let position = first; position < end; position++) {
    planScore(
      c,
      firstRow + position - 1 - sequence.computed,
      sequence.slot,
      load<u32>(tokens + ((<usize>position) << 2)),
    );
  }
  recordScored(record, request, first, end - first);
  request.scoredPosition = end - 1;
}

/** The leader's row is sampled for itself and for each follower, which then shares all its blocks. */
function fanOut(c: CoreState, record: StepRecord, leader: Sequence): void {
  const request = changetype<Request>(leader.request);
  leader.leads = false;
  request.prefilling = false;
  request.fannedOutStep = c.step;
  sample(c, record, leader);
  let address = leader.nextSibling;
  for (; leader.numFollowers > 0; leader.numFollowers--) {
    const follower = changetype<Sequence>(address);
    address = follower.nextSibling;
    if (!hasRoomToOpen(c, request, follower.numTokens) || !hasRoomForShared(c, leader.numBlocks)) {
      leaveRest(c, leader, follower);
      break;
    }
    follower.state = SequenceState.running;
    follower.computed = leader.computed;
    follower.fannedOutStep = c.step;
    follower.skipsCache = leader.skipsCache;
    follower.sharesLastBlock = true;
    leader.sharesLastBlock = true;
    follower.lastPlannedStep = c.step;
    follower.stepsInFlight++;
    for (let index: u32 = 0; index < leader.numBlocks; index++)
      appendShared(c, follower, blockOf(leader, index));
    planOpen(c, follower);
    recordSequence(record, follower);
    sample(c, record, follower);
  }
  queueRequest(c, request);
}

/** The instruction has no room for the followers from `first` on: they start later, by a prefill of their own. */
function leaveRest(c: CoreState, leader: Sequence, first: Sequence): void {
  let last = first;
  while (last.nextSibling != 0 && changetype<Sequence>(last.nextSibling).state == SequenceState.follower) {
    last = changetype<Sequence>(last.nextSibling);
  }
  leader.leads = true;
  for (;;) {
    const previous = last.previousSibling;
    const isFirst = last == first;
    preempt(c, last);
    if (isFirst) break;
    last = changetype<Sequence>(previous);
  }
  leader.leads = false;
}

/** Blocks that running sequences will still need for tokens that are known. */
function reservedBlocks(c: CoreState): u32 {
  let reserved: u32 = 0;
  for (let index: u32 = 0; index < c.numRunning; index++) {
    const sequence = runningAt(c, index);
    if (sequence.state != SequenceState.running) continue;
    const wanted = blocksFor(c, sequence.numTokens);
    if (wanted > sequence.numBlocks) reserved += wanted - sequence.numBlocks;
  }
  return reserved;
}

function admitWaiting(c: CoreState, record: StepRecord, budgetAtStart: u32): void {
  let budget = budgetAtStart;
  let reserved = reservedBlocks(c);
  while (budget > 0 && c.numWaitingEntries > 0 && c.numFreeSlots > 0) {
    compactRunning(c);
    // Without a free record no request can start; the preempted sequences have theirs, and must not wait for one.
    const next = c.numFreeSequences > 0 ? changetype<usize>(queueFirst(c)) : queueFirstSequence(c);
    if (next == 0) return;
    const entry = changetype<Entry>(next);
    const isRequest = entry.kind == EntryKind.request;
    if (!isRequest && changetype<Sequence>(changetype<usize>(entry)).stepsInFlight > 0) return;
    const request = isRequest
      ? changetype<Request>(changetype<usize>(entry))
      : changetype<Request>(changetype<Sequence>(changetype<usize>(entry)).request);
    if (isRequest && request.fannedOutStep == c.step) return;
    const tokens = isRequest ? promptOf(request) : tokensOf(changetype<Sequence>(changetype<usize>(entry)));
    const known = isRequest
      ? request.numPromptTokens
      : changetype<Sequence>(changetype<usize>(entry)).numTokens;

    const hits = countHits(c, request, tokens, known);
    const cachedTokens = hits << c.blockShift;
    const take = min(known - cachedTokens, prefillCap(c, budget));
    const wanted = blocksFor(c, known) - hits;
    if (numAvailableBlocks(c) - idleHits(c, hits) < reserved + wanted) {
      ensure(c.numRunning > 0 || c.numStepsInFlight > 0, 'what is alone fits');
      return;
    }
    if (!hasRoomToOpen(c, request, known) || !hasRoomForShared(c, hits)) return;
    const sequence = isRequest ? seat(c, request) : changetype<usize>(entry);
    if (sequence == 0) {
      if (c.numRunning > 0 || c.numStepsInFlight > 0) return;
      finishRequest(c, request, FinishReason.error, ErrorCode.out_of_token_memory);
      continue;
    }
    if (!isRequest) readmit(c, changetype<Sequence>(sequence));
    start(c, record, changetype<Sequence>(sequence), hits, take, isRequest);
    budget -= take;
    reserved += blocksFor(c, known) - blocksFor(c, cachedTokens + take);
  }
}

function countHits(c: CoreState, request: Request, tokens: usize, known: u32): u32 {
  if (!c.enablePrefixCache || SamplingParams.prompt_logprobs(paramsOf(request)) >= 0) return 0;
  return lookUpPrefix(c, request, tokens, (known - 1) >> c.blockShift);
}

/** Those of the hit blocks that nobody holds: a hit takes them from what is available. */
function idleHits(c: CoreState, hits: u32): u32 {
  let idle: u32 = 0;
  for (let hit: u32 = 0; hit < hits; hit++) {
    if (blockAt(c, load<u32>(c.hits + ((<usize>hit) << 2))).owners == 0) idle++;
  }
  return idle;
}

/** Starts as many samples as there are seats: a leader, and followers behind it. Gives the leader, or 0 without token memory. */
function seat(c: CoreState, request: Request): usize {
  const params = paramsOf(request);
  const prompt = request.numPromptTokens;
  const maxTotal = <u32>min<u64>(<u64>prompt + <u64>SamplingParams.max_tokens(params), <u64>c.lengthLimit);
  const minTotal = <u32>min<u64>(<u64>prompt + <u64>SamplingParams.min_tokens(params), <u64>u32.MAX_VALUE);
  const seats = min(numUnstarted(request), min(c.numFreeSlots, c.numFreeSequences));
  let leader: usize = 0;
  for (let seated: u32 = 0; seated < seats; seated++) {
    const address = newSequence(
      c,
      request,
      request.sample,
      maxTotal,
      minTotal,
      SamplingParams.ignore_eos(params),
    );
    if (address == 0) break;
    const sequence = changetype<Sequence>(address);
    if (leader == 0) {
      queueRemove(c, request);
      leader = address;
      sequence.leads = true;
      sequence.state = SequenceState.running;
      sequence.preemptions = request.preemptions;
      request.preemptions = 0;
      request.prefilling = true;
    } else {
      sequence.state = SequenceState.follower;
      changetype<Sequence>(leader).numFollowers++;
    }
    request.sample++;
    c.numUnstarted--;
    takeSlot(c, sequence);
    insertRunning(c, sequence);
  }
  return leader;
}

function readmit(c: CoreState, sequence: Sequence): void {
  queueRemove(c, sequence);
  c.numPreempted--;
  sequence.state = SequenceState.running;
  takeSlot(c, sequence);
  insertRunning(c, sequence);
}

function start(
  c: CoreState,
  record: StepRecord,
  sequence: Sequence,
  hits: u32,
  take: u32,
  isFirst: bool,
): void {
  const request = changetype<Request>(sequence.request);
  for (let hit: u32 = 0; hit < hits; hit++) {
    appendShared(c, sequence, load<u32>(c.hits + ((<usize>hit) << 2)));
  }
  if (hits > 0) {
    const last = blockAt(c, blockOf(sequence, hits - 1));
    sequence.chainHash = last.hash;
    sequence.chainSerial = last.serial;
    sequence.numRegistered = hits;
    sequence.computed = hits << c.blockShift;
  }
  if (isFirst) {
    c.promptTokens += <u64>sequence.numPromptTokens;
    c.cachedPromptTokens += <u64>sequence.computed;
    if (!request.started) putStart(c, request, sequence.computed);
    request.started = true;
  }
  plan(c, record, sequence, take);
}
