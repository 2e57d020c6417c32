// How samples start, are preempted and end, and what they give back. The books of requests, sequences, slots and blocks change here
// and in the scheduler's admissions, nowhere else.
import { releaseTable } from './block_table';
import { CoreState } from './core_state';
import { ensure } from './errors';
import { putFinish } from './output';
import { freeRequest, numUnstarted, Request } from './request';
import { queuePush, queueRemove } from './request_queue';
import {
  detachSequence,
  freeSequenceRecord,
  giveSlotBack,
  runningAt,
  Sequence,
  SequenceState,
} from './sequence';
import { ErrorCode } from './wire/generated/types';

/** Puts a request with unstarted samples where it waits: the queue, unless its leader is prefilling. */
export function queueRequest(c: CoreState, request: Request): void {
  if (request.prefilling || request.held || request.queueIndex != 0 || numUnstarted(request) == 0) return;
  queuePush(c, request);
}

function giveBack(c: CoreState, sequence: Sequence): void {
  releaseTable(c, sequence);
  if (sequence.ownsSlot) giveSlotBack(c, sequence);
}

/** Called when nothing of an ended sequence is in flight any more. */
export function bury(c: CoreState, sequence: Sequence): void {
  giveBack(c, sequence);
  freeSequenceRecord(c, sequence);
}

function endRequestIfOver(c: CoreState, request: Request): void {
  if (request.numSequences > 0 || numUnstarted(request) > 0) return;
  if (request.queueIndex != 0) queueRemove(c, request);
  freeRequest(c, request);
}

/** A leader's group ends: its followers go back to the request, unstarted. */
function dissolveFollowers(c: CoreState, leader: Sequence): void {
  let follower = leader.nextSibling;
  while (leader.numFollowers > 0) {
    const next = changetype<Sequence>(follower).nextSibling;
    unstart(c, changetype<Sequence>(follower));
    leader.numFollowers--;
    follower = next;
  }
}

/** Takes a sample back that has produced nothing: it counts as not started. */
function unstart(c: CoreState, sequence: Sequence): void {
  const request = changetype<Request>(sequence.request);
  detachSequence(c, sequence);
  request.sample--;
  c.numUnstarted++;
  c.runningHasGaps = true;
  giveBack(c, sequence);
  if (sequence.stepsInFlight == 0) freeSequenceRecord(c, sequence);
}

/**
 * Preempts a running sequence (or a follower): its blocks and slot are free at once. Instructions are executed in order, so whoever gets
 * the blocks next writes them after the step in flight has read them. A sequence with tokens of its own waits and computes them again;
 * a group that has not sampled yet goes back to its request.
 */
export function preempt(c: CoreState, sequence: Sequence): void {
  const request = changetype<Request>(sequence.request);
  if (sequence.state == SequenceState.follower) {
    let leader = sequence.previousSibling;
    while (!changetype<Sequence>(leader).leads) leader = changetype<Sequence>(leader).previousSibling;
    ensure(request.sample == sequence.sample + 1, 'followers go back to their request last first');
    changetype<Sequence>(leader).numFollowers--;
    unstart(c, sequence);
    return;
  }
  c.numPreemptions++;
  if (sequence.leads) {
    dissolveFollowers(c, sequence);
    request.preemptions = sequence.preemptions + 1;
    request.prefilling = false;
    ensure(request.queueIndex == 0, 'a request that prefills is not queued');
    unstart(c, sequence);
    queueRequest(c, request);
    return;
  }
  sequence.preemptions++;
  sequence.epoch++;
  sequence.computed = 0;
  sequence.numRegistered = 0;
  sequence.skipsCache = false;
  sequence.sharesLastBlock = false;
  sequence.state = SequenceState.waiting;
  c.numPreempted++;
  c.runningHasGaps = true;
  giveBack(c, sequence);
  queuePush(c, sequence);
}

/** Preempts all that runs, last first. They wait again in their order, which is that of their keys. */
export function preemptAll(c: CoreState): void {
  for (let index = c.numRunning; index-- > 0; ) {
    const sequence = runningAt(c, index);
    if (sequence.state == SequenceState.running || sequence.state == SequenceState.follower)
      preempt(c, sequence);
  }
}

/** Ends a live sequence, once, with a reason; an error may name the value that was wrong and its limit. */
export function finishSequence(
  c: CoreState,
  sequence: Sequence,
  reason: u8,
  stopToken: i32,
  code: u16,
  value: i64 = 0,
  limit: i64 = 0,
): void {
  ensure(sequence.state != SequenceState.ended && sequence.state != SequenceState.free, 'a sample ends once');
  const request = changetype<Request>(sequence.request);
  if (sequence.leads) {
    dissolveFollowers(c, sequence);
    request.prefilling = false;
  } else if (sequence.state == SequenceState.follower) {
    let leader = sequence.previousSibling;
    while (!changetype<Sequence>(leader).leads) leader = changetype<Sequence>(leader).previousSibling;
    changetype<Sequence>(leader).numFollowers--;
  }
  putFinish(
    c,
    sequence.requestId,
    sequence.sample,
    1,
    reason,
    stopToken,
    code,
    value,
    limit,
    sequence.preemptions,
  );
  if (sequence.state == SequenceState.waiting) {
    queueRemove(c, sequence);
    c.numPreempted--;
  } else {
    c.runningHasGaps = true;
  }
  detachSequence(c, sequence);
  if (sequence.stepsInFlight == 0) bury(c, sequence);
  queueRequest(c, request);
  endRequestIfOver(c, request);
}

/** Ends all that is left of a request: its sequences by sample, then the unstarted samples as one. */
export function finishRequest(c: CoreState, request: Request, reason: u8, code: u16): void {
  // Followers end as themselves, so the leader must not send them back first: last sequence first would change the order of the
  // outputs, so the group is unbound instead.
  let sequence = request.firstSequence;
  while (sequence != 0) {
    changetype<Sequence>(sequence).leads = false;
    changetype<Sequence>(sequence).numFollowers = 0;
    if (changetype<Sequence>(sequence).state == SequenceState.follower)
      changetype<Sequence>(sequence).state = SequenceState.running;
    sequence = changetype<Sequence>(sequence).nextSibling;
  }
  request.prefilling = false;
  const unstarted = numUnstarted(request);
  const firstUnstarted = request.sample;
  request.sample = request.n;
  c.numUnstarted -= unstarted;
  if (request.queueIndex != 0) queueRemove(c, request);
  if (request.held) unhold(c, request);
  const id = request.id;
  sequence = request.firstSequence;
  while (sequence != 0) {
    const next = changetype<Sequence>(sequence).nextSibling;
    finishSequence(c, changetype<Sequence>(sequence), reason, -1, code);
    sequence = next;
  }
  if (unstarted > 0) putFinish(c, id, firstUnstarted, unstarted, reason, -1, code, 0, 0, 0);
  if (request.live) freeRequest(c, request);
}

export function finishAll(c: CoreState, reason: u8): void {
  while (c.firstLive != 0) finishRequest(c, changetype<Request>(c.firstLive), reason, ErrorCode.none);
}

// Requests that arrive while a pause drains are held apart, by arrival, until generation resumes.

export function hold(c: CoreState, request: Request): void {
  request.held = true;
  request.nextHeld = 0;
  if (c.lastHeld != 0) changetype<Request>(c.lastHeld).nextHeld = changetype<usize>(request);
  else c.firstHeld = changetype<usize>(request);
  c.lastHeld = changetype<usize>(request);
  c.numHeld++;
}

function unhold(c: CoreState, request: Request): void {
  const address = changetype<usize>(request);
  let previous: usize = 0;
  let at = c.firstHeld;
  while (at != address) {
    previous = at;
    at = changetype<Request>(at).nextHeld;
  }
  if (previous != 0) changetype<Request>(previous).nextHeld = request.nextHeld;
  else c.firstHeld = request.nextHeld;
  if (c.lastHeld == address) c.lastHeld = previous;
  request.held = false;
  c.numHeld--;
}

export function queueHeld(c: CoreState): void {
  while (c.firstHeld != 0) {
    const request = changetype<Request>(c.firstHeld);
    unhold(c, request);
    queueRequest(c, request);
  }
}
