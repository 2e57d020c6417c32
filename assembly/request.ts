// A request: a prompt, its sampling parameters and how many samples are wanted. Samples [sample, n) are not started.
//
// It owns one allocation of the token heap: prompt | stop ids | bias ids | biases. It lives until its last sample has ended.
import { CoreState } from './core_state';
import { Entry, EntryKind } from './entry';
import { ensure } from './errors';
import { heapFree } from './token_heap';
import { SamplingParams } from './wire/generated/types';

@unmanaged
export class Request extends Entry {
  id: u64;
  cacheSalt: u64;
  fannedOutStep: u64; // when its last group was sampled first; the next one starts in a later step
  memory: usize;
  live: bool;
  held: bool; // waits outside of the queue for the end of a drain
  prefilling: bool; // a group of it has a leader that has not sampled yet; then it is not in the queue
  started: bool;
  n: u32;
  numSequences: u32; // started and not ended
  adapter: u32;
  numPromptTokens: u32;
  numStopTokens: u32;
  numBiases: u32;
  scoredPosition: u32; // prompt positions up to here have their log-prob planned
  preemptions: u32; // of the group that was sent back before it sampled; the next leader takes them over
  firstSequence: usize; // live sequences, by sample
  lastSequence: usize;
  nextLive: usize;
  previousLive: usize;
  nextHeld: usize;
}

export const REQUEST_BYTES: usize = (offsetof<Request>() + SamplingParams.BYTES + 7) & ~7;

/** The SamplingParams struct that follows the record. */
export function paramsOf(request: Request): usize {
  return changetype<usize>(request) + offsetof<Request>();
}

export function promptOf(request: Request): usize {
  return request.memory;
}

export function stopTokensOf(request: Request): usize {
  return request.memory + ((<usize>request.numPromptTokens) << 2);
}

export function biasTokensOf(request: Request): usize {
  return stopTokensOf(request) + ((<usize>request.numStopTokens) << 2);
}

export function biasesOf(request: Request): usize {
  return biasTokensOf(request) + ((<usize>request.numBiases) << 2);
}

export function numUnstarted(request: Request): u32 {
  return request.n - request.sample;
}

/** A cleared record at the end of the live list, in the map under its id. The caller fills it. */
export function newRequest(c: CoreState, id: u64): Request {
  ensure(c.numFreeRequests > 0, 'a request record is free when one is taken');
  const address = <usize>load<u32>(c.freeRequests + (--c.numFreeRequests << 2));
  memory.fill(address, 0, REQUEST_BYTES);
  const request = changetype<Request>(address);
  request.kind = EntryKind.request;
  request.live = true;
  request.id = id;
  request.arrival = ++c.arrivals;
  request.previousLive = c.lastLive;
  if (c.lastLive != 0) changetype<Request>(c.lastLive).nextLive = address;
  else c.firstLive = address;
  c.lastLive = address;
  c.numLive++;
  putInMap(c, request);
  return request;
}

export function freeRequest(c: CoreState, request: Request): void {
  ensure(
    request.queueIndex == 0 && request.numSequences == 0 && !request.held,
    'a request that ends is nowhere else',
  );
  const address = changetype<usize>(request);
  removeFromMap(c, request.id);
  if (request.previousLive != 0) changetype<Request>(request.previousLive).nextLive = request.nextLive;
  else c.firstLive = request.nextLive;
  if (request.nextLive != 0) changetype<Request>(request.nextLive).previousLive = request.previousLive;
  else c.lastLive = request.previousLive;
  c.numLive--;
  heapFree(c, request.memory);
  request.live = false;
  store<u32>(c.freeRequests + (c.numFreeRequests++ << 2), <u32>address);
}

function mapSlot(c: CoreState, id: u64): u32 {
  return <u32>((id * 0x9e3779b97f4a7c15) >> 32) & c.requestMapMask;
}

/** The live request of this id, or 0. */
export function findRequest(c: CoreState, id: u64): usize {
  let slot = mapSlot(c, id);
  let address = <usize>load<u32>(c.requestMap + ((<usize>slot) << 2));
  while (address != 0 && changetype<Request>(address).id != id) {
    slot = (slot + 1) & c.requestMapMask;
    address = <usize>load<u32>(c.requestMap + ((<usize>slot) << 2));
  }
  return address;
}

function putInMap(c: CoreState, request: Request): void {
  let slot = mapSlot(c, request.id);
  while (load<u32>(c.requestMap + ((<usize>slot) << 2)) != 0) slot = (slot + 1) & c.requestMapMask;
  store<u32>(c.requestMap + ((<usize>slot) << 2), <u32>changetype<usize>(request));
}

/** Linear probing without tombstones: what follows the hole moves back into it when its own slot allows. */
function removeFromMap(c: CoreState, id: u64): void {
  const mask = c.requestMapMask;
  let hole = mapSlot(c, id);
  while (changetype<Request>(<usize>load<u32>(c.requestMap + ((<usize>hole) << 2))).id != id)
    hole = (hole + 1) & mask;
  let next = (hole + 1) & mask;
  for (;;) {
    const address = load<u32>(c.requestMap + ((<usize>next) << 2));
    if (address == 0) break;
    const home = mapSlot(c, changetype<Request>(<usize>address).id);
    if (((next - home) & mask) >= ((next - hole) & mask)) {
      store<u32>(c.requestMap + ((<usize>hole) << 2), address);
      hole = next;
    }
    next = (next + 1) & mask;
  }
  store<u32>(c.requestMap + ((<usize>hole) << 2), 0);
}
