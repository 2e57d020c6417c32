// The runs of golden/, one for each feature: how each is made, and what must have happened in it. What happened is read off the replay of
// the stored file, not off the run that made it.

import { expect } from 'vitest';
import type { CoreConfig, InstructionObject, OutputObject, StepPlanObject } from '../support/core_types.js';
import { promptOf, type RecordedRun } from './recorded_run.js';

/** What a replay saw. */
export interface Observed {
  instructions: InstructionObject[];
  outputs: OutputObject[];
  numPreemptions: number;
  /** At each command, how many sequences had ended with a step of theirs in flight. */
  endedInFlight: number;
}

export interface Scenario {
  config?: Partial<CoreConfig>;
  make(run: RecordedRun): void;
  happened(seen: Observed): void;
}

const plansOf = ({ instructions }: Observed): StepPlanObject[] =>
  instructions.filter((instruction) => instruction.type === 'stepPlan');
const typesOf = ({ instructions }: Observed) => instructions.map(({ type }) => type);
const finishesOf = ({ outputs }: Observed) => outputs.flatMap(({ finishes }) => finishes);
const acksOf = ({ outputs }: Observed) => outputs.flatMap(({ acks }) => acks.map(({ code }) => code));
const tokensOf = ({ outputs }: Observed, request: number) =>
  outputs.flatMap(({ tokens }) => tokens).filter((token) => token.request === request).length;

/** Three requests are decoding, with steps in flight. */
function startThree(run: RecordedRun): void {
  run.add({ id: 1, maxTokens: 12 }, { id: 2, maxTokens: 12 }, { id: 3, n: 2, maxTokens: 12 });
  run.steps(3);
  run.schedule();
}

export const SCENARIOS: Readonly<Record<string, Scenario>> = {
  chunked_prefill: {
    config: { maxNumBatchedTokens: 48, longPrefillTokenThreshold: 32 },
    make(run) {
      run.add({ id: 1, promptTokenIds: promptOf(10, 1), maxTokens: 8 });
      run.steps(2);
      run.add({ id: 2, promptTokenIds: promptOf(100, 2) });
      run.finish();
    },
    happened(seen) {
      const chunks = plansOf(seen).flatMap(({ sequences }) =>
        sequences.filter(({ numTokens }) => numTokens > 1),
      );
      const long = chunks.filter(({ slot }) => slot === chunks.at(-1)!.slot && chunks.length > 1).slice(-4);
      expect(long.map(({ start, numTokens }) => [start, numTokens])).toEqual([
        [0, 32],
        [32, 32],
        [64, 32],
        [96, 4],
      ]);
      const mixed = plansOf(seen).filter(({ sequences }) => sequences.length === 2);
      expect(mixed.some(({ sequences }) => sequences.some(({ numTokens }) => numTokens === 32))).toBe(true);
    },
  },
  preemption: {
    config: { numBlocks: 8 },
    make(run) {
      run.add(...[1, 2, 3, 4].map((id) => ({ id, promptTokenIds: promptOf(30, id), maxTokens: 24 })));
      run.finish();
    },
    happened(seen) {
      expect(seen.numPreemptions).toBeGreaterThan(0);
      expect(finishesOf(seen).map(({ reason }) => reason)).toEqual(['length', 'length', 'length', 'length']);
      expect(finishesOf(seen).some(({ preemptions }) => preemptions > 0)).toBe(true);
    },
  },
  fan_out: {
    make(run) {
      run.add({ id: 1, n: 4, promptTokenIds: promptOf(20, 1) });
      run.finish();
    },
    happened(seen) {
      const [first, second] = plansOf(seen);
      expect(first!.samples.map(({ row }) => row)).toEqual([19, 19, 19, 19]);
      expect(second!.copies.length).toBe(3);
    },
  },
  fan_out_few_slots: {
    config: { maxNumSeqs: 3 },
    make(run) {
      run.add({ id: 1, n: 7, promptTokenIds: promptOf(20, 1) });
      run.finish();
    },
    happened(seen) {
      const [first] = plansOf(seen);
      expect(first!.samples.length).toBe(3);
      const samples = plansOf(seen).flatMap(({ opens }) => opens.map(({ sample }) => sample));
      expect([...new Set(samples)]).toEqual([0, 1, 2, 3, 4, 5, 6]);
    },
  },
  prefix_cache_hit: {
    make(run) {
      run.add({ id: 1, promptTokenIds: promptOf(50, 7) });
      run.finish();
      run.add(
        { id: 2, promptTokenIds: promptOf(50, 7) },
        { id: 3, promptTokenIds: promptOf(50, 7), cacheSalt: 1 },
      );
      run.finish();
    },
    happened(seen) {
      const starts = seen.outputs.flatMap(({ starts }) => starts);
      expect(starts).toEqual([
        { request: 1, cachedTokens: 0 },
        { request: 2, cachedTokens: 48 },
        { request: 3, cachedTokens: 0 },
      ]);
    },
  },
  pause_abort: {
    make(run) {
      startThree(run);
      run.apply({ type: 'pauseGeneration', mode: 'abort' });
      run.finish();
      run.apply({ type: 'resumeGeneration' });
      run.add({ id: 4 });
      run.finish();
    },
    happened(seen) {
      expect(finishesOf(seen).map(({ reason }) => reason)).toEqual([
        'abort',
        'abort',
        'abort',
        'abort',
        'length',
      ]);
      expect(seen.endedInFlight).toBeGreaterThan(0);
    },
  },
  pause_wait: {
    make(run) {
      startThree(run);
      run.apply({ type: 'pauseGeneration', mode: 'wait' });
      run.add({ id: 4 });
      run.finish();
      run.apply({ type: 'resumeGeneration' });
      run.finish();
    },
    happened(seen) {
      expect(acksOf(seen)).toEqual(['none', 'none', 'none', 'none']);
      const paused = seen.outputs.findIndex(({ acks }) => acks.some(({ command }) => command === 2));
      const finishes = seen.outputs.slice(0, paused + 1).flatMap(({ finishes }) => finishes);
      expect(finishes.map(({ request }) => request)).toEqual([1, 2, 3, 3]);
      expect(tokensOf(seen, 4)).toBe(6);
    },
  },
  pause_keep: {
    make(run) {
      startThree(run);
      run.apply({ type: 'pauseGeneration', mode: 'keep' });
      run.finish();
      run.apply({ type: 'resumeGeneration' });
      run.finish();
    },
    happened(seen) {
      expect(finishesOf(seen).map(({ reason, preemptions }) => [reason, preemptions])).toEqual(
        Array.from({ length: 4 }, () => ['length', 0]),
      );
      expect(plansOf(seen).filter(({ opens }) => opens.length > 0).length).toBe(1);
    },
  },
  pause_retract: {
    make(run) {
      startThree(run);
      run.apply({ type: 'pauseGeneration', mode: 'retract' });
      run.finish();
      run.apply({ type: 'resumeGeneration' });
      run.finish();
    },
    happened(seen) {
      expect(finishesOf(seen).map(({ reason, preemptions }) => [reason, preemptions])).toEqual(
        Array.from({ length: 4 }, () => ['length', 1]),
      );
      expect(plansOf(seen).filter(({ opens }) => opens.length > 0).length).toBe(2);
    },
  },
  abort_in_flight: {
    make(run) {
      startThree(run);
      run.apply({ type: 'abortRequests', requestIds: [2, 99] });
      run.finish();
    },
    happened(seen) {
      expect(seen.endedInFlight).toBe(1);
      expect(
        finishesOf(seen)
          .filter(({ reason }) => reason === 'abort')
          .map(({ request }) => request),
      ).toEqual([2]);
      expect(finishesOf(seen).filter(({ reason }) => reason === 'length').length).toBe(3);
    },
  },
  memory_release: {
    make(run) {
      startThree(run);
      run.apply({ type: 'releaseMemory', tags: ['kv_cache', 'weights'] });
      run.finish();
      run.apply({ type: 'resumeMemory', tags: ['kv_cache', 'weights'] });
      run.finish();
    },
    happened(seen) {
      expect(typesOf(seen)).toContain('releaseMemory');
      expect(typesOf(seen)).toContain('resumeMemory');
      expect(finishesOf(seen).map(({ reason, preemptions }) => [reason, preemptions])).toEqual(
        Array.from({ length: 4 }, () => ['length', 1]),
      );
    },
  },
  weight_update: {
    make(run) {
      startThree(run);
      run.apply({ type: 'pauseGeneration', mode: 'keep' });
      run.finish();
      run.apply({ type: 'beginWeightUpdate' });
      run.apply({ type: 'finishWeightUpdate', version: 5 });
      run.finish();
      run.apply({ type: 'resumeGeneration' });
      run.finish();
    },
    happened(seen) {
      const versions = seen.outputs
        .filter(({ tokens }) => tokens.some(({ request }) => request === 1))
        .map(({ weightVersion }) => weightVersion);
      expect([...new Set(versions)]).toEqual([0, 5]);
      expect(acksOf(seen).every((code) => code === 'none')).toBe(true);
    },
  },
  priorities: {
    config: { maxNumSeqs: 1 },
    make(run) {
      run.add({ id: 1, priority: 2 }, { id: 2, priority: 1 }, { id: 3, priority: 1 }, { id: 4, priority: 0 });
      run.finish();
    },
    happened(seen) {
      const starts = seen.outputs.flatMap(({ starts }) => starts.map(({ request }) => request));
      expect(starts).toEqual([4, 2, 3, 1]);
    },
  },
  step_failure: {
    config: { maxStepsInFlight: 1 },
    make(run) {
      run.add({ id: 1 }, { id: 2 });
      run.steps(2);
      run.schedule();
      run.commit(({ step }) => ({ step, code: 'step_failed', message: 'the device is gone' }));
      run.add({ id: 3 }, { id: 4 });
      run.steps(2);
      run.schedule();
      run.commit((result) => ({ ...result, tokenIds: [5, -1], rowCodes: ['none', 'nan_logits'] }));
      run.apply({ type: 'abortRequests', all: true });
      run.finish();
    },
    happened(seen) {
      expect(finishesOf(seen).map(({ request, reason, code }) => `${request} ${reason} ${code}`)).toEqual([
        '1 error step_failed',
        '2 error step_failed',
        '4 error nan_logits',
        '3 abort none',
      ]);
    },
  },
  prompt_logprobs: {
    config: { maxNumBatchedTokens: 24 },
    make(run) {
      run.add(
        { id: 1, promptTokenIds: promptOf(30, 1), promptLogprobs: 2, maxTokens: 0 },
        { id: 2, promptTokenIds: promptOf(20, 2), promptLogprobs: 0, logprobs: 3 },
      );
      run.finish();
    },
    happened(seen) {
      const scores = seen.outputs.flatMap(({ scores }) => scores);
      const countOf = (id: number) =>
        scores.filter(({ request }) => request === id).reduce((sum, { count }) => sum + count, 0);
      expect([countOf(1), countOf(2)]).toEqual([29, 19]);
      expect(scores.length).toBeGreaterThan(2);
    },
  },
};
