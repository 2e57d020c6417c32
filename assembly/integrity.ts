// The books, checked as a whole: every rule of the core that can be seen in its state. The number of the first broken one is returned;
// src/core/integrity_rules.ts has the sentences. Slow (it walks everything): for tests and simulations, after each call.
import { blockAt } from './block_pool';
import { blockOf } from './block_table';
import { CoreState } from './core_state';
import { Entry, EntryKind, precedes } from './entry';
import { findRequest, numUnstarted, Request } from './request';
import { runningAt, SEQUENCE_BYTES, Sequence, SequenceState } from './sequence';
import { heapFreeBytes } from './token_heap';

export const enum Rule {
  none = 0,
  blocksAddUp = 1, // free + cached + held = total
  freeBlocksAreFree = 2, // no owner, not cached, not registered, listed once
  cachedBlocksAreInOrder = 3, // no owner, registered, lastUsed increases, listed once
  ownersMatchTables = 4, // owners of a block = entries of block tables that name it
  registeredBlocksAreFound = 5, // each registered block is in the map, and the map has no other
  runningIsSorted = 6,
  runningIsWithinLimit = 7,
  slotsAddUp = 8,
  slotsAreDistinct = 9,
  sequencesAddUp = 10,
  queueIsAHeap = 11,
  queueEntriesAreWaiting = 12,
  liveRequestsAddUp = 13, // in the list, in the map, by arrival
  requestsHaveWork = 14, // a live request has an unstarted sample or a live sequence
  unstartedAddUp = 15,
  sequencesAreWithinBounds = 16, // computed, known, maximum, table
  nothingWaitsForever = 17, // a request with unstarted samples is queued, held, or prefilling
  tokenHeapAddsUp = 18,
  stepsInFlightAddUp = 19,
  sharedBlocksAreKnown = 20, // a partial block with other owners, so that it is copied before it is written
}

export function firstBrokenRule(c: CoreState): u32 {
  let rule = checkBlocks(c);
  if (rule == Rule.none) rule = checkSequences(c);
  if (rule == Rule.none) rule = checkQueue(c);
  if (rule == Rule.none) rule = checkRequests(c);
  if (rule == Rule.none && heapFreeBytes(c) + c.heapUsedBytes != c.heapBytes) rule = Rule.tokenHeapAddsUp;
  return rule;
}

/** Counts for each block how many entries of block tables name it, in `c.marks`. False when one names no block. */
function countEntries(c: CoreState): bool {
  memory.fill(c.marks, 0, (<usize>c.numBlocks) << 2);
  for (let record: u32 = 0; record < c.numSequenceRecords; record++) {
    const sequence = changetype<Sequence>(c.sequences + <usize>record * SEQUENCE_BYTES);
    if (sequence.state == SequenceState.free) continue;
    for (let index: u32 = 0; index < sequence.numBlocks; index++) {
      const block = blockOf(sequence, index);
      if (block >= c.numBlocks) return false;
      const mark = c.marks + ((<usize>block) << 2);
      store<u32>(mark, load<u32>(mark) + 1);
    }
  }
  return true;
}

function checkBlocks(c: CoreState): Rule {
  let held: u32 = 0;
  let registered: u32 = 0;
  for (let index: u32 = 0; index < c.numBlocks; index++) {
    const block = blockAt(c, index);
    if (block.owners > 0) held++;
    if (block.registered) registered++;
  }
  if (c.numFreeBlocks + c.numCachedBlocks + held != c.numBlocks) return Rule.blocksAddUp;

  if (!countEntries(c)) return Rule.ownersMatchTables;
  for (let index: u32 = 0; index < c.numBlocks; index++) {
    if (load<u32>(c.marks + ((<usize>index) << 2)) != blockAt(c, index).owners) return Rule.ownersMatchTables;
  }

  for (let at: u32 = 0; at < c.numFreeBlocks; at++) {
    const index = load<u32>(c.freeBlocks + ((<usize>at) << 2));
    if (index >= c.numBlocks) return Rule.freeBlocksAreFree;
    const block = blockAt(c, index);
    if (block.owners != 0 || block.cached || block.registered) return Rule.freeBlocksAreFree;
    const mark = c.marks + ((<usize>index) << 2); // 0 until now: nobody owns it
    if (load<u32>(mark) != 0) return Rule.freeBlocksAreFree;
    store<u32>(mark, 1);
  }
  return checkCached(c, registered);
}

function checkCached(c: CoreState, registered: u32): Rule {
  let listed: u32 = 0;
  let lastUsed: u64 = 0;
  let at = c.firstCached;
  while (at != 0) {
    const block = blockAt(c, at - 1);
    if (!block.cached || !block.registered || block.owners != 0 || block.lastUsed <= lastUsed)
      return Rule.cachedBlocksAreInOrder;
    if (++listed > c.numCachedBlocks) return Rule.cachedBlocksAreInOrder;
    lastUsed = block.lastUsed;
    at = block.next;
  }
  if (listed != c.numCachedBlocks) return Rule.cachedBlocksAreInOrder;
  let mapped: u32 = 0;
  for (let slot: u32 = 0; slot <= c.blockMapMask; slot++) {
    const found = load<u32>(c.blockMap + ((<usize>slot) << 2));
    if (found == 0) continue;
    mapped++;
    if (found > c.numBlocks || !blockAt(c, found - 1).registered) return Rule.registeredBlocksAreFound;
  }
  return mapped == registered ? Rule.none : Rule.registeredBlocksAreFound;
}

function checkSequences(c: CoreState): Rule {
  if (c.numRunning > c.maxNumSeqs) return Rule.runningIsWithinLimit;
  for (let index: u32 = 0; index < c.numRunning; index++) {
    const sequence = runningAt(c, index);
    const runs = sequence.state == SequenceState.running || sequence.state == SequenceState.follower;
    if (!runs || !sequence.ownsSlot) return Rule.sequencesAddUp;
    if (index > 0 && !precedes(runningAt(c, index - 1), sequence)) return Rule.runningIsSorted;
  }
  let used: u32 = 0;
  let slots: u32 = 0;
  let running: u32 = 0;
  let preempted: u32 = 0;
  let inFlight: u32 = 0;
  for (let record: u32 = 0; record < c.numSequenceRecords; record++) {
    const sequence = changetype<Sequence>(c.sequences + <usize>record * SEQUENCE_BYTES);
    if (sequence.state == SequenceState.free) continue;
    used++;
    if (sequence.ownsSlot) slots++;
    if (sequence.state == SequenceState.running || sequence.state == SequenceState.follower) running++;
    if (sequence.state == SequenceState.waiting) preempted++;
    if (sequence.state == SequenceState.ended && sequence.stepsInFlight == 0) return Rule.sequencesAddUp;
    if (sequence.samplesInFlight > sequence.stepsInFlight) return Rule.stepsInFlightAddUp;
    inFlight = max(inFlight, sequence.stepsInFlight);
    const rule = checkSequence(c, sequence);
    if (rule != Rule.none) return rule;
  }
  if (inFlight > c.numStepsInFlight || c.numStepsInFlight > c.maxStepsInFlight)
    return Rule.stepsInFlightAddUp;
  if (used + c.numFreeSequences != c.numSequenceRecords || running != c.numRunning)
    return Rule.sequencesAddUp;
  if (preempted != c.numPreempted) return Rule.sequencesAddUp;
  if (slots + c.numFreeSlots != c.maxNumSeqs) return Rule.slotsAddUp;
  return Rule.none;
}

function checkSequence(c: CoreState, sequence: Sequence): Rule {
  if (sequence.state == SequenceState.waiting && (sequence.ownsSlot || sequence.numBlocks > 0))
    return Rule.slotsAddUp;
  if (sequence.ownsSlot) {
    for (let at: u32 = 0; at < c.numFreeSlots; at++) {
      if (load<u32>(c.freeSlots + ((<usize>at) << 2)) == sequence.slot) return Rule.slotsAreDistinct;
    }
  }
  if (sequence.state == SequenceState.ended) return Rule.none;
  const partial = sequence.computed >> c.blockShift;
  if (
    partial < sequence.numBlocks &&
    !sequence.sharesLastBlock &&
    blockAt(c, blockOf(sequence, partial)).owners > 1
  )
    return Rule.sharedBlocksAreKnown;
  const known = sequence.numTokens + sequence.samplesInFlight;
  const held = sequence.numBlocks << c.blockShift;
  if (
    sequence.computed > known ||
    sequence.numTokens > sequence.maxTotal ||
    sequence.maxTotal > c.lengthLimit ||
    sequence.computed > held ||
    sequence.numRegistered > sequence.numBlocks ||
    sequence.numTokens > sequence.numTokensCapacity
  ) {
    return Rule.sequencesAreWithinBounds;
  }
  return Rule.none;
}

function checkQueue(c: CoreState): Rule {
  for (let index: u32 = 0; index < c.numWaitingEntries; index++) {
    const entry = changetype<Entry>(<usize>load<u32>(c.waiting + ((<usize>index) << 2)));
    if (entry.queueIndex != index + 1) return Rule.queueIsAHeap;
    if (index > 0) {
      const parent = changetype<Entry>(<usize>load<u32>(c.waiting + ((<usize>((index - 1) >> 1)) << 2)));
      if (!precedes(parent, entry)) return Rule.queueIsAHeap;
    }
    if (entry.kind == EntryKind.request) {
      const request = changetype<Request>(changetype<usize>(entry));
      if (!request.live || numUnstarted(request) == 0 || request.prefilling || request.held)
        return Rule.queueEntriesAreWaiting;
    } else if (changetype<Sequence>(changetype<usize>(entry)).state != SequenceState.waiting) {
      return Rule.queueEntriesAreWaiting;
    }
  }
  return Rule.none;
}

function checkRequests(c: CoreState): Rule {
  let count: u32 = 0;
  let unstarted: u32 = 0;
  let arrival: u64 = 0;
  let address = c.firstLive;
  while (address != 0) {
    const request = changetype<Request>(address);
    if (!request.live || request.arrival <= arrival || findRequest(c, request.id) != address)
      return Rule.liveRequestsAddUp;
    if (++count > c.numLive) return Rule.liveRequestsAddUp;
    arrival = request.arrival;
    unstarted += numUnstarted(request);
    if (request.numSequences == 0 && numUnstarted(request) == 0) return Rule.requestsHaveWork;
    if (numUnstarted(request) > 0 && request.queueIndex == 0 && !request.held && !request.prefilling)
      return Rule.nothingWaitsForever;
    address = request.nextLive;
  }
  if (count != c.numLive || count + c.numFreeRequests != c.maxNumRequests) return Rule.liveRequestsAddUp;
  return unstarted == c.numUnstarted ? Rule.none : Rule.unstartedAddUp;
}
