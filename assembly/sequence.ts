// A sequence: one sample that has been started. It owns its tokens (prompt and outputs), a slot and the blocks in its table.
//
//   follower ──(its leader samples)──▶ running ──▶ ended
//                                      │    ▲
//                            (preempt) ▼    │ (admit)
//                                     waiting ──▶ ended
//
// `computed` counts the positions that have been planned; a position is proven when its step is committed. `epoch` changes with each
// preemption, so that a step still in flight is known to have written blocks that are no longer the sequence's.
import { CoreState } from './core_state';
import { Entry, EntryKind, precedes } from './entry';
import { ensure } from './errors';
import { promptOf, Request } from './request';
import { heapAllocate, heapCapacity, heapFree, heapGrow } from './token_heap';

export const enum SequenceState {
  free = 0,
  follower = 1, // seated beside a leader that still computes the common prompt
  running = 2,
  waiting = 3, // preempted
  ended = 4, // its last step is still in flight
}

// What a decode reads comes first, then what it writes, then what it needs once in sixteen steps.
@unmanaged
export class Sequence extends Entry {
  requestId: u64;
  state: SequenceState;
  slot: u32;
  maxTotal: u32; // it ends with this many tokens
  minTotal: u32; // and stops with no fewer
  numBlocks: u32; // in its table
  numRegistered: u32; // of them in the prefix cache
  leads: bool; // computes the prompt for the `numFollowers` sequences right behind it in the running list
  opened: bool; // the host's slot holds its parameters
  ownsSlot: bool;
  skipsCache: bool; // holds KV that nobody may hit (older weights, a row that failed): registers nothing
  ignoreEos: bool;
  hasStopTokens: bool;
  sharesLastBlock: bool; // has taken part in a fan-out and not written since: only then can a partial block have other owners
  scoresOnly: bool; // max_tokens 0

  lastPlannedStep: u64;
  epoch: u32;
  numTokens: u32; // known
  computed: u32;
  samplesInFlight: u32;
  stepsInFlight: u32;
  lastSample: u32; // index of its last planned sample in that step's samples
  newest: u64; // the newest tokens, by position modulo 16: this and the seven below are one array (newestAt)
  newest2: u64;
  newest4: u64;
  newest6: u64;
  newest8: u64;
  newest10: u64;
  newest12: u64;
  newest14: u64;

  tokens: usize; // all known ones but the newest, see `tokensOf`
  numTokensCapacity: u32;
  numPromptTokens: u32;
  request: usize;
  blockTable: usize;
  numFollowers: u32;
  preemptions: u32;
  nextSibling: usize;
  chainHash: u64; // of the last registered block (prefix_cache.ts)
  chainSerial: u64;
  fannedOutStep: u64; // of a former follower: the step in which it took its leader's prompt over
  previousSibling: usize;
}

export const SEQUENCE_BYTES: usize = (offsetof<Sequence>() + 63) & ~63;

/** The newest tokens lie in the record itself: the ends of a thousand token arrays would be a thousand cache misses a step. */
const NEWEST_TOKENS: u32 = 16;

function newestAt(sequence: Sequence, position: u32): usize {
  return (
    changetype<usize>(sequence) +
    offsetof<Sequence>('newest') +
    ((<usize>(position & (NEWEST_TOKENS - 1))) << 2)
  );
}

/** The last known token. */
export function lastToken(sequence: Sequence): i32 {
  return load<i32>(newestAt(sequence, sequence.numTokens - 1));
}

/** All known tokens, in one array: brings the newest ones into it first. */
export function tokensOf(sequence: Sequence): usize {
  const first = sequence.numTokens & ~(NEWEST_TOKENS - 1);
  memory.copy(
    sequence.tokens + ((<usize>first) << 2),
    newestAt(sequence, 0),
    (<usize>(sequence.numTokens - first)) << 2,
  );
  return sequence.tokens;
}

/** A started sample with the prompt as its tokens, or 0 when the token heap is full. It joins the request's live sequences. */
export function newSequence(
  c: CoreState,
  request: Request,
  sample: u32,
  maxTotal: u32,
  minTotal: u32,
  ignoreEos: bool,
): usize {
  const promptBytes = (<u64>request.numPromptTokens) << 2;
  const tokens = heapAllocate(c, promptBytes + 4);
  if (tokens == 0) return 0;
  ensure(c.numFreeSequences > 0, 'a sequence record is free when one is taken');
  const address = <usize>load<u32>(c.freeSequences + (--c.numFreeSequences << 2));
  memory.fill(address, 0, SEQUENCE_BYTES);
  memory.copy(tokens, promptOf(request), <usize>promptBytes);
  const sequence = changetype<Sequence>(address);
  sequence.kind = EntryKind.sequence;
  sequence.priority = request.priority;
  sequence.arrival = request.arrival;
  sequence.sample = sample;
  sequence.request = changetype<usize>(request);
  sequence.requestId = request.id;
  sequence.tokens = tokens;
  sequence.numTokensCapacity = heapCapacity(c, tokens) >> 2;
  sequence.numTokens = request.numPromptTokens;
  const newest = request.numPromptTokens - min(request.numPromptTokens, NEWEST_TOKENS);
  for (let position = newest; position < request.numPromptTokens; position++) {
    store<i32>(newestAt(sequence, position), load<i32>(tokens + ((<usize>position) << 2)));
  }
  sequence.numPromptTokens = request.numPromptTokens;
  sequence.scoresOnly = maxTotal == request.numPromptTokens;
  sequence.maxTotal = maxTotal;
  sequence.minTotal = minTotal;
  sequence.hasStopTokens = request.numStopTokens > 0;
  sequence.ignoreEos = ignoreEos;
  sequence.previousSibling = request.lastSequence;
  if (request.lastSequence != 0) changetype<Sequence>(request.lastSequence).nextSibling = address;
  else request.firstSequence = address;
  request.lastSequence = address;
  request.numSequences++;
  return address;
}

/** Takes the sequence out of its request. Its tokens go; the record stays while steps of it are in flight. */
export function detachSequence(c: CoreState, sequence: Sequence): void {
  const request = changetype<Request>(sequence.request);
  if (sequence.previousSibling != 0)
    changetype<Sequence>(sequence.previousSibling).nextSibling = sequence.nextSibling;
  else request.firstSequence = sequence.nextSibling;
  if (sequence.nextSibling != 0)
    changetype<Sequence>(sequence.nextSibling).previousSibling = sequence.previousSibling;
  else request.lastSequence = sequence.previousSibling;
  request.numSequences--;
  heapFree(c, sequence.tokens);
  sequence.tokens = 0;
  sequence.state = SequenceState.ended;
}

export function freeSequenceRecord(c: CoreState, sequence: Sequence): void {
  ensure(
    sequence.state == SequenceState.ended && sequence.numBlocks == 0 && !sequence.ownsSlot,
    'an ended sequence owns nothing',
  );
  sequence.state = SequenceState.free;
  store<u32>(c.freeSequences + (c.numFreeSequences++ << 2), <u32>changetype<usize>(sequence));
}

/** Appends a sampled token; false when the token heap is full. */

export function appendToken(c: CoreState, sequence: Sequence, token: i32): bool {
  const position = sequence.numTokens;
  const place = position & (NEWEST_TOKENS - 1);
  if (place == 0 && position == sequence.numTokensCapacity && !growTokens(c, sequence)) return false;
  store<i32>(newestAt(sequence, position), token);
  sequence.numTokens = position + 1;
  if (place == NEWEST_TOKENS - 1) storeNewest(sequence, position + 1);
  return true;
}

function growTokens(c: CoreState, sequence: Sequence): bool {
  const grown = heapGrow(c, sequence.tokens, (<u64>sequence.numTokens) << 3);
  if (grown == 0) return false;
  sequence.tokens = grown;
  sequence.numTokensCapacity = heapCapacity(c, grown) >> 2;
  return true;
}

/** Brings a full line of newest tokens into the array, which ends with them. */
function storeNewest(sequence: Sequence, end: u32): void {
  const from = newestAt(sequence, 0);
  const to = sequence.tokens + ((<usize>(end - NEWEST_TOKENS)) << 2);
  for (let at: usize = 0; at < (<usize>NEWEST_TOKENS) << 2; at += 16)
    v128.store(to + at, v128.load(from + at));
}

export function takeSlot(c: CoreState, sequence: Sequence): void {
  ensure(c.numFreeSlots > 0 && !sequence.ownsSlot, 'a slot is free when one is taken');
  sequence.slot = load<u32>(c.freeSlots + (--c.numFreeSlots << 2));
  sequence.blockTable = c.blockTables + ((<usize>sequence.slot * <usize>c.maxBlocksPerSequence) << 2);
  sequence.ownsSlot = true;
  sequence.opened = false;
}

export function giveSlotBack(c: CoreState, sequence: Sequence): void {
  ensure(sequence.ownsSlot && sequence.numBlocks == 0, 'a slot is given back once, without blocks');
  store<u32>(c.freeSlots + (c.numFreeSlots++ << 2), sequence.slot);
  sequence.ownsSlot = false;
}

// The running list: addresses of the sequences that own a slot and have not ended, by key.

export function runningAt(c: CoreState, index: u32): Sequence {
  return changetype<Sequence>(<usize>load<u32>(c.running + ((<usize>index) << 2)));
}

export function insertRunning(c: CoreState, sequence: Sequence): void {
  let index = c.numRunning++;
  ensure(c.numRunning <= c.maxNumSeqs, 'at most max_num_seqs sequences run');
  while (index > 0 && precedes(sequence, runningAt(c, index - 1))) {
    store<u32>(c.running + ((<usize>index) << 2), load<u32>(c.running + ((<usize>(index - 1)) << 2)));
    index--;
  }
  store<u32>(c.running + ((<usize>index) << 2), <u32>changetype<usize>(sequence));
}

/** Removes the sequences that have left (ended or waiting) since the last time. */
export function compactRunning(c: CoreState): void {
  if (!c.runningHasGaps) return;
  let kept: u32 = 0;
  for (let index: u32 = 0; index < c.numRunning; index++) {
    const sequence = runningAt(c, index);
    if (sequence.state == SequenceState.running || sequence.state == SequenceState.follower) {
      store<u32>(c.running + (kept++ << 2), <u32>changetype<usize>(sequence));
    }
  }
  c.numRunning = kept;
  c.runningHasGaps = false;
}
