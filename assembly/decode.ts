// Planning what most steps are made of: sequences in a row that compute one token each and are sampled. The same as scheduler.ts does
// for any sequence (the fuzzer holds both to one model), with the columns' addresses and counts in locals: reading them again for every
// sequence would be most of the time.
import { CoreState } from './core_state';
import { lastToken, runningAt, SequenceState } from './sequence';
import { StepRecord } from './step_record';

/**
 * Plans the sequences from `first` in the running list on, as long as each is one that only decodes: its last token is
 * known or being sampled, and has a block. Gives how many; at most `budget`.
 */
export function planDecodes(c: CoreState, record: StepRecord, first: u32, budget: u32): u32 {
  const step = c.step;
  const blockShift = c.blockShift;
  const end = min(c.numRunning, first + budget);
  const firstSequence = c.numSequences;
  const firstSample = c.numSamples;
  let row = c.numRows;
  const sequenceSlot = c.sequenceSlot + ((<usize>firstSequence) << 2);
  const sequenceStart = c.sequenceStart + ((<usize>firstSequence) << 2);
  const sequenceTokens = c.sequenceTokens + ((<usize>firstSequence) << 2);
  const tokenIds = c.tokenIds + ((<usize>row) << 2);
  const sampleRow = c.sampleRow + ((<usize>firstSample) << 2);
  const sampleSlot = c.sampleSlot + ((<usize>firstSample) << 2);
  const recordSequences = record.sequences + ((<usize>record.numSequences) << 2);
  const recordEpochs = record.epochs + ((<usize>record.numSequences) << 2);
  const recordEnds = record.ends + ((<usize>record.numSequences) << 2);
  const recordSamples = record.samples + ((<usize>record.numSamples) << 2);
  let at: usize = 0;
  for (let index = first; index < end; index++, at += 4) {
    const sequence = runningAt(c, index);
    const position = sequence.computed;
    const inFlight = sequence.samplesInFlight;
    const known = sequence.numTokens + inFlight;
    if (
      sequence.state != SequenceState.running ||
      sequence.lastPlannedStep == step ||
      position + 1 != known ||
      known >= sequence.maxTotal ||
      position >= sequence.numBlocks << blockShift ||
      sequence.leads ||
      !sequence.opened ||
      sequence.sharesLastBlock
    )
      break;
    const slot = sequence.slot;
    store<u32>(sequenceSlot + at, slot);
    store<u32>(sequenceStart + at, position);
    store<u32>(sequenceTokens + at, 1);
    store<i32>(tokenIds + at, inFlight == 0 ? lastToken(sequence) : -1 - <i32>sequence.lastSample);
    store<u32>(sampleRow + at, row++);
    store<u32>(sampleSlot + at, slot);
    store<u32>(recordSequences + at, <u32>changetype<usize>(sequence));
    store<u32>(recordEpochs + at, sequence.epoch);
    store<u32>(recordEnds + at, position + 1);
    store<u32>(recordSamples + at, <u32>changetype<usize>(sequence));
    sequence.computed = position + 1;
    sequence.lastPlannedStep = step;
    sequence.lastSample = firstSample + <u32>(at >> 2);
    sequence.samplesInFlight = inFlight + 1;
    sequence.stepsInFlight++;
  }
  const planned = <u32>(at >> 2);
  c.numSequences += planned;
  c.numRows += planned;
  c.numSamples += planned;
  record.numSequences += planned;
  record.numSamples += planned;
  return planned;
}
