// No waiting entry overtakes another of a smaller key (priority, arrival, sample): docs/scheduling.md, the waiting
// pass.
//
// What waits is told from outside: a request of which no sample has been seen running, and a sequence that was surely
// preempted (a retraction, a forced reset, a release of the KV cache). Who may wait or run, as the client sees it, is
// not judged.

import { type Account, SampleState } from '../account.js';
import { fail } from '../failure.js';
import type { Ledger } from '../ledger.js';

function precedes(a: Account, sampleOfA: number, b: Account, sampleOfB: number): boolean {
  if (a.priority !== b.priority) return a.priority < b.priority;
  if (a.arrival !== b.arrival) return a.arrival < b.arrival;
  return sampleOfA < sampleOfB;
}

function name(account: Account, sample: number): string {
  return `sample ${sample} of request ${account.id} (priority ${account.priority}, arrival ${account.arrival})`;
}

/** A sample is admitted, as the leader of its request's prompt or again after a preemption. */
export function checkAdmission(
  ledger: Ledger,
  { account, sample, maxNumSeqs }: { account: Account; sample: number; maxNumSeqs: number },
): void {
  if (account.isHeld)
    fail('fairness', `${name(account, sample)} runs, though it came while a pause drained and is held.`);
  const isAgain = account.samples[sample]!.outputs.length > 0;
  // Without a free sequence record no request starts, and preempted sequences, which have theirs, go first.
  const mayPassRequests = isAgain && numStarted(ledger) >= maxNumSeqs;
  for (const other of ledger.live.values()) {
    if (other.isHeld || other.priority > account.priority) continue;
    if (other.priority === account.priority && other.arrival > account.arrival) continue;
    if (!mayPassRequests && other.leader < 0 && other !== account) {
      const next = other.nextUnstarted;
      if (next < other.samples.length && precedes(other, next, account, sample))
        fail('fairness', `${name(account, sample)} is admitted while ${name(other, next)} waits.`);
    }
    for (let index = 0; index < other.samples.length; index++) {
      if (other.samples[index]!.state !== SampleState.waiting) continue;
      if (precedes(other, index, account, sample))
        fail('fairness', `${name(account, sample)} is admitted while ${name(other, index)} waits.`);
    }
  }
}

function numStarted(ledger: Ledger): number {
  let started = 0;
  for (const { samples } of ledger.live.values())
    for (const { state } of samples)
      if (state === SampleState.open || state === SampleState.waiting) started += 1;
  return started;
}
