import { readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FRAME_HEAD_BYTES, PREAMBLE_BYTES, paddedBytes } from '../../src/trace/frame.js';
import type { Span } from '../../src/trace/history/history_requests.js';
import { type History, readHistory } from '../../src/trace/index.js';
import { eventfulRun, promptOf, RecordedRun, removeRecordings } from './recorded.js';

let run: RecordedRun;
let history: History;

beforeAll(async () => {
  run = await eventfulRun();
  history = await readHistory(run.path);
});

afterAll(removeRecordings);

const requestOf = (from: History, id: number) => from.requests.find((request) => request.id === id)!;
const kinds = (spans: readonly Span[]) => spans.map(({ kind }) => kind);

describe('the history of a trace', () => {
  it('has each step with what the core planned in it', () => {
    expect(history.end).toMatchObject({ kind: 'whole', sentence: null });
    expect(history.steps.count).toBe(run.plans.length);
    for (const [i, plan] of run.plans.entries()) {
      const row = history.steps.row(i + 1);
      const { numRunning, numWaiting, numFreeBlocks, numCachedBlocks, numHeldBlocks } = run.stats[i]!;
      expect([row.running, row.waiting, row.freeBlocks, row.cachedBlocks, row.heldBlocks]).toEqual([
        ...[numRunning, numWaiting, numFreeBlocks, numCachedBlocks, numHeldBlocks],
      ]);
      if (plan.type !== 'stepPlan') {
        expect(row.work).toBeGreaterThan(0);
        continue;
      }
      expect([row.rows, row.sequences, row.samples]).toEqual([
        ...[plan.numTokens, plan.sequences.length, plan.samples.length],
      ]);
    }
  });

  it('counts the tokens that were delivered, sample by sample, not those that were dropped', () => {
    let total = 0;
    for (const request of history.requests) {
      for (const { sample, tokens } of request.samples) {
        expect([request.id, sample, tokens]).toEqual([
          ...[request.id, sample, run.tokensOf(Number(request.id), sample)],
        ]);
        total += tokens;
      }
    }
    expect(total).toBe(history.stats.generationTokens);
    expect(total).toBeGreaterThan(500);
  });

  it('ends each sample once, as the core said', () => {
    const ends = run.outputs.flatMap(({ finishes }) => finishes);
    for (const { request, sample, count, reason, preemptions } of ends) {
      const life = requestOf(history, Number(request));
      const started = life.samples[sample];
      if (started === undefined) {
        expect(life.neverStarted).toContainEqual(
          expect.objectContaining({ first: sample, count, end: expect.objectContaining({ reason }) }),
        );
      } else {
        expect([started.end!.reason, started.preemptions]).toEqual([reason, preemptions]);
      }
    }
    expect(
      history.requests.every(({ n, samples, neverStarted }) => {
        return samples.length + neverStarted.reduce((sum, { count }) => sum + count, 0) === n;
      }),
    ).toBe(true);
  });

  it('tells prefill from decode so that both together are all rows', () => {
    const spans = history.requests.flatMap(({ samples }) => samples.flatMap((sample) => sample.spans));
    const prefill = spans.reduce((sum, span) => sum + (span.kind === 'prefill' ? span.rows : 0), 0);
    const decode = spans.reduce(
      (sum, span) =>
        sum + (span.kind === 'decode' ? span.lastStep - span.firstStep + (span.fanOut ? 0 : 1) : 0),
      0,
    );
    expect(prefill + decode).toBe(history.stats.computedTokens);
    expect(history.steps.column('prefillRows').reduce((sum, rows) => sum + rows, 0)).toBe(prefill);
  });

  it('notes every preemption: of samples, and of the steps and commands that caused them', () => {
    const { numPreemptions } = history.stats;
    expect(numPreemptions).toBeGreaterThan(2);
    const ofSteps = history.steps.column('preemptions').reduce((sum, count) => sum + count, 0);
    const ofCommands = history.commands.reduce((sum, { preemptions }) => sum + preemptions, 0);
    expect(ofSteps + ofCommands).toBe(numPreemptions);
    const spans = history.requests.flatMap(({ samples }) => samples.flatMap((sample) => sample.spans));
    expect(spans.filter(({ kind }) => kind === 'preempted')).toHaveLength(numPreemptions);
    const again = spans.reduce(
      (sum, span) => sum + (span.kind === 'prefill' && span.again ? span.rows : 0),
      0,
    );
    expect(again).toBe(history.recomputedRows);
    expect(again).toBeGreaterThan(0);
  });

  it('has the chunks of a long prompt, then decode steps with a token each', async () => {
    const long = requestOf(history, 1).samples[0]!;
    expect(long.spans.slice(0, 2)).toMatchObject([
      { kind: 'prefill', step: 1, start: 0, rows: 256, again: false, sampled: false },
      { kind: 'prefill', step: 2, start: 256, rows: 44, again: false, sampled: true },
    ]);
    expect(long.spans[2]).toMatchObject({ kind: 'decode', firstStep: 3, firstToken: 2 });
  });

  it('begins the other samples of a fan-out in the step that samples the prompt', () => {
    for (const sample of requestOf(history, 1).samples.slice(1))
      expect(sample.spans[0]).toMatchObject({ kind: 'decode', firstStep: 2, firstToken: 1, fanOut: true });
  });

  it('knows what the prefix cache spared, and who was refused', () => {
    const cached = run.outputs.flatMap(({ starts }) => starts);
    for (const { request, cachedTokens } of cached)
      expect(requestOf(history, Number(request)).cachedTokens).toBe(cachedTokens);
    expect(requestOf(history, 6)).toMatchObject({
      samples: [],
      neverStarted: [{ first: 0, count: 2, end: { reason: 'error', code: 'prompt_too_long', step: null } }],
    });
  });

  it('stamps tokens with the weight version that sampled them', () => {
    const versions = history.requests.flatMap(({ samples }) =>
      samples.flatMap((each) => each.weightVersions),
    );
    const numOf = (version: number) =>
      run.outputs
        .filter((output) => output.weightVersion === version)
        .reduce((sum, { tokens }) => sum + tokens.length, 0);
    for (const version of [0, 1]) {
      const told = versions.filter((each) => each.version === version);
      expect(told.reduce((sum, { tokens }) => sum + tokens, 0)).toBe(numOf(version));
      expect(numOf(version)).toBeGreaterThan(0);
    }
  });

  it('has the commands with their answers', () => {
    const answers = history.commands.map(({ type, code }) => [type, code]);
    expect(answers).toContainEqual(['PauseGeneration', 'none']);
    expect(answers).toContainEqual(['FinishWeightUpdate', 'none']);
    expect(history.commands.find(({ type }) => type === 'AbortRequests')!.words).toBe('abort requests 7');
  });
});

describe('the history of a run that does not end well', () => {
  it('shows what runs when a killed trace ends', async () => {
    const killed = await RecordedRun.create('killed.kdz');
    killed.apply({
      type: 'addRequests',
      requests: [{ id: 1, n: 2, promptTokenIds: promptOf(20, 1), maxTokens: 50 }],
    });
    for (let i = 0; i < 10; i += 1) killed.step();
    killed.apply({ type: 'abortRequests', requestIds: [99] });
    const cut = await readHistory(await killed.kill());
    expect(cut.end.kind).toBe('cut');
    expect(cut.end.sentence).toMatch(/^The trace ends after frame \d+, without an end/);
    expect(cut.steps.count).toBe(10);
    expect(cut.requests[0]!.samples.map(({ tokens, end }) => [tokens, end])).toEqual([
      [10, null],
      [10, null],
    ]);
  });

  it('ends the samples of a step that failed', async () => {
    const failed = await RecordedRun.create('failed.kdz', { maxStepsInFlight: 1 });
    failed.apply({
      type: 'addRequests',
      requests: [{ id: 1, promptTokenIds: promptOf(20, 1), maxTokens: 50 }],
    });
    failed.step();
    failed.step(undefined, 'step_failed');
    const { requests } = await readHistory(await failed.end());
    expect(requests[0]!.samples[0]).toMatchObject({
      tokens: 1,
      end: { reason: 'error', code: 'step_failed', step: 2 },
    });
  });

  it('sends what a pause of mode retract throws back to wait, from the moment of the command', async () => {
    const retracted = await RecordedRun.create('retracted.kdz', { maxStepsInFlight: 1 });
    retracted.apply({
      type: 'addRequests',
      requests: [{ id: 1, promptTokenIds: promptOf(20, 1), maxTokens: 10 }],
    });
    for (let i = 0; i < 4; i += 1) retracted.step();
    retracted.apply({ type: 'pauseGeneration', mode: 'retract' });
    retracted.wait(1000);
    retracted.apply({ type: 'resumeGeneration' });
    retracted.run();
    const { requests, commands } = await readHistory(await retracted.end());
    const { spans } = requests[0]!.samples[0]!;
    expect(kinds(spans)).toEqual(['prefill', 'decode', 'preempted', 'prefill', 'decode']);
    expect(spans[2]).toMatchObject({ atUs: commands[1]!.timeUs, resumedStep: 5 });
    expect(commands[1]).toMatchObject({ words: 'pause generation (retract)', preemptions: 1 });
  });

  it('tells two requests of one id apart, and one that is refused because the other still runs', async () => {
    const twice = await RecordedRun.create('twice.kdz');
    const request = { id: 5, promptTokenIds: promptOf(20, 1), maxTokens: 3 };
    twice.apply({ type: 'addRequests', requests: [request, request] });
    twice.step();
    twice.apply({ type: 'addRequests', requests: [request] });
    twice.run();
    twice.apply({ type: 'addRequests', requests: [{ ...request, maxTokens: 4 }] });
    twice.run();
    const { requests } = await readHistory(await twice.end());
    const outcome = requests.map(({ samples, neverStarted }) =>
      samples.length > 0 ? samples[0]!.tokens : neverStarted[0]!.end.code,
    );
    expect(outcome).toEqual([3, 'request_id_in_use', 'request_id_in_use', 4]);
  });

  it('stops where the plans part from the recorded ones, and says so', async () => {
    const bytes = readFileSync(run.path);
    const changed = await changedTrace(bytes);
    const parted = await readHistory(changed);
    expect(parted.end.kind).toBe('parted');
    expect(parted.end.sentence).toMatch(/^From step \d+ on this core's plans are not the recorded ones/);
    expect(parted.steps.count).toBeGreaterThan(0);
    expect(parted.steps.count).toBeLessThan(history.steps.count);
  });
});

/** The same run under the header of another configuration, with fewer blocks: the plans part when they run out. */
async function changedTrace(bytes: Uint8Array): Promise<string> {
  const other = await RecordedRun.create('other.kdz', { numBlocks: 50 });
  const donor = readFileSync(await other.kill());
  const path = `${run.path}.changed`;
  const frameEnd = (file: Uint8Array) => {
    const view = new DataView(file.buffer, file.byteOffset);
    return PREAMBLE_BYTES + FRAME_HEAD_BYTES + paddedBytes(view.getUint32(PREAMBLE_BYTES, true));
  };
  writeFileSync(path, Buffer.concat([donor.subarray(0, frameEnd(donor)), bytes.subarray(frameEnd(bytes))]));
  return path;
}
