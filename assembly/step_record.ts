// What the core remembers of an instruction in flight, until its result is committed: which sequences it computes up to where, which it
// samples, which prompt log-probs it scores, or which control command it carries out.
import { CoreState, MAX_STEPS_IN_FLIGHT } from './core_state';
import { Request } from './request';
import { Sequence } from './sequence';

@unmanaged
export class StepRecord {
  step: u64;
  weightVersion: u64;
  isControl: bool;
  numSequences: u32;
  numSamples: u32;
  numScored: u32;
  numScores: u32;
  // Per sequence computed.
  sequences: usize;
  epochs: usize;
  ends: usize; // computed positions once this step is committed
  // Per sample.
  samples: usize;
  // Per sequence scored: the request and its arrival (the record may be another's by then), its first position, and how many.
  scoredRequests: usize;
  scoredArrivals: usize;
  scoredPositions: usize;
  scoredFirst: usize;
  scoredCounts: usize;
}

export const STEP_RECORD_BYTES: usize = (offsetof<StepRecord>() + 7) & ~7;

function recordAt(c: CoreState, index: u32): StepRecord {
  return changetype<StepRecord>(c.records + <usize>(index % MAX_STEPS_IN_FLIGHT) * STEP_RECORD_BYTES);
}

export function oldestRecord(c: CoreState): StepRecord {
  return recordAt(c, c.oldestRecord);
}

/** The record of the step that is being planned; in flight from `openRecord` on. */
export function nextRecord(c: CoreState): StepRecord {
  return recordAt(c, c.oldestRecord + c.numStepsInFlight);
}

/** Its number in the ring, also that of its instruction's buffer. */
export function nextRecordIndex(c: CoreState): u32 {
  return (c.oldestRecord + c.numStepsInFlight) % MAX_STEPS_IN_FLIGHT;
}

export function clearRecord(c: CoreState, record: StepRecord): void {
  record.step = c.step;
  record.weightVersion = c.weightVersion;
  record.isControl = false;
  record.numSequences = 0;
  record.numSamples = 0;
  record.numScored = 0;
  record.numScores = 0;
}

export function recordSequence(record: StepRecord, sequence: Sequence): void {
  const at = record.numSequences++ << 2;
  store<u32>(record.sequences + at, <u32>changetype<usize>(sequence));
  store<u32>(record.epochs + at, sequence.epoch);
  store<u32>(record.ends + at, sequence.computed);
}

export function recordSample(record: StepRecord, sequence: Sequence): void {
  store<u32>(record.samples + (record.numSamples++ << 2), <u32>changetype<usize>(sequence));
}

export function recordScored(record: StepRecord, request: Request, position: u32, count: u32): void {
  const at = record.numScored++ << 2;
  store<u32>(record.scoredRequests + at, <u32>changetype<usize>(request));
  store<u64>(record.scoredArrivals + (at << 1), request.arrival);
  store<u32>(record.scoredPositions + at, position);
  store<u32>(record.scoredFirst + at, record.numScores);
  store<u32>(record.scoredCounts + at, count);
  record.numScores += count;
}

export function sequenceOf(column: usize, index: u32): Sequence {
  return changetype<Sequence>(<usize>load<u32>(column + ((<usize>index) << 2)));
}
