import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { decodeInstruction, decodeResult, encodeResult } from '../../src/core/index.js';
import type { TraceSteps } from '../../src/generated/index.js';
import type { Difference } from '../../src/trace/index.js';
import { replayTrace, TraceReader } from '../../src/trace/index.js';
import { buildChangedCore } from '../support/changed_core.js';
import { changedSteps, framesOf, scratchFolder, withPayloads } from './damage.js';
import { promptOf, RecordedRun, type RecordingOptions } from './recorded_run.js';

const scratch = scratchFolder();
const CORE = new URL('../../build/core.wasm', import.meta.url);

/** Two requests, the first with two samples: decoding from step 2 on. `depth` steps are in flight. */
async function smallRun(depth: 1 | 2, options: RecordingOptions = {}) {
  const run = await RecordedRun.create({ maxStepsInFlight: depth }, options);
  run.add(
    { id: 1, n: 2, maxTokens: 8, logprobs: 2 },
    { id: 2, promptTokenIds: promptOf(18, 2), maxTokens: 8, promptLogprobs: 1 },
  );
  run.finish();
  return { run, file: await run.bytes() };
}

/** The file with the columns of its first steps frame changed. */
async function changed(file: Buffer, change: (steps: TraceSteps) => void): Promise<string> {
  const index = framesOf(file).findIndex(({ kind }) => kind === 'steps');
  const bytes = await withPayloads(file, ({ stored }, i) =>
    i === index ? changedSteps(stored, change) : null,
  );
  return scratch.write('changed.kdz', bytes);
}

/** The file with the Result of one step replaced by what `change` makes of it. */
async function changedResult(
  file: Buffer,
  step: number,
  change: (result: ReturnType<typeof decodeResult>) => void,
): Promise<string> {
  return changed(file, (steps) => {
    const index = Array.from(steps.resultStepArray()!).indexOf(step - 1);
    const [begin, end] = [steps.resultEnd(index - 1) ?? 0, steps.resultEnd(index)!];
    const bytes = steps.resultsArray()!.subarray(index === 0 ? 0 : Math.ceil(begin / 8) * 8, end);
    const result = decodeResult(bytes.slice());
    change(result);
    const encoded = encodeResult(result);
    expect(encoded.byteLength).toBe(bytes.byteLength);
    bytes.set(encoded);
  });
}

async function differenceOf(
  path: string,
  options: Parameters<typeof replayTrace>[1] = {},
): Promise<Difference> {
  const { difference, ended } = await replayTrace(path, options);
  expect(ended).toBe('difference');
  return difference!;
}

async function instructionsOf(path: string) {
  const reader = await TraceReader.open(path);
  const plans = [...reader.events()].flatMap((event) =>
    event.kind === 'step' ? [decodeInstruction(event.plan!)] : [],
  );
  reader.close();
  return plans;
}

describe('a replay that executes again', () => {
  it('finds a run equal, and says what it compared', async () => {
    const { run, file } = await smallRun(2);
    const report = await replayTrace(scratch.write('run.kdz', file), { executor: run.executor() });
    expect(report).toMatchObject({ mode: 'tokens', difference: null, ended: 'end', numTokens: 24 });
  });

  it('names step, request, sample and position of a token that is another', async () => {
    const { run, file } = await smallRun(2);
    let recorded = 0;
    const path = await changedResult(file, 3, ({ tokenIds }) => {
      const tokens = tokenIds as number[];
      tokens[1] = tokens[1]! ^ 1;
      recorded = tokens[1]!;
    });
    const difference = await differenceOf(path, { executor: run.executor() });
    expect(difference).toMatchObject({ step: 3, request: 1, sample: 1, position: 12, field: 'token_ids[1]' });
    expect(difference).toMatchObject({ left: String(recorded), right: String(recorded ^ 1) });
  });

  it('sees a single bit of a log-prob, and shows both values with their bits', async () => {
    const { run, file } = await smallRun(2);
    let right = 0;
    const path = await changedResult(file, 4, ({ logprobs }) => {
      const bits = new Uint32Array(1);
      const value = new Float32Array(bits.buffer);
      value[0] = (logprobs as number[])[2]!;
      right = value[0];
      bits[0] = bits[0]! ^ 1;
      (logprobs as number[])[2] = value[0]!;
    });
    const difference = await differenceOf(path, { executor: run.executor() });
    expect(difference).toMatchObject({ step: 4, request: 2, sample: 0, position: 21, field: 'logprob[2]' });
    const [left, replayed] = [difference.left, difference.right].map(
      (text) => /^(\S+) \(0x([0-9a-f]{8})\)$/.exec(text)!,
    );
    expect(Number(replayed![1])).toBe(right);
    expect(Number.parseInt(left![2]!, 16) ^ Number.parseInt(replayed![2]!, 16)).toBe(1);
  });

  it('compares the lists of likely tokens and the scores of prompts too', async () => {
    const { run, file } = await smallRun(2);
    const top = await changedResult(file, 2, ({ topTokenIds }) => {
      (topTokenIds as number[])[3] = 9;
    });
    expect(await differenceOf(top, { executor: run.executor() })).toMatchObject({
      ...{ step: 2, request: 1, sample: 1, position: 11, field: 'top_token_ids[3]', left: '9', right: '6' },
    });
    const score = await changedResult(file, 1, ({ scoreRanks }) => {
      (scoreRanks as number[])[5] = 4;
    });
    expect(await differenceOf(score, { executor: run.executor() })).toMatchObject({
      ...{ step: 1, request: 2, sample: 0, position: 6, field: 'score_rank[5]', left: '4', right: '2' },
    });
  });

  it('names samples before scores, and the first of them by its place in the step', async () => {
    const { run, file } = await smallRun(2);
    const path = await changedResult(file, 1, ({ scoreRanks, logprobs, tokenIds }) => {
      (scoreRanks as number[])[0] = 4;
      (tokenIds as number[])[2]! ^= 1;
      (logprobs as number[])[1] = -1000;
    });
    expect(await differenceOf(path, { executor: run.executor() })).toMatchObject({
      ...{
        step: 1,
        request: 1,
        sample: 1,
        position: 10,
        field: 'logprob[1]',
        left: expect.stringMatching(/^-1000 /),
      },
    });
  });

  it('tells a step that failed from one that did not', async () => {
    const run = await RecordedRun.create({ maxStepsInFlight: 1 });
    run.add({ id: 1 });
    run.steps(2);
    run.schedule();
    run.commit(({ step }) => ({ step, code: 'step_failed', message: 'gone' }));
    run.finish();
    const path = scratch.write('failed.kdz', await run.bytes());
    expect(await differenceOf(path, { executor: run.executor() })).toMatchObject({
      ...{ step: 3, request: null, field: 'code', left: 'step_failed (gone)', right: 'none' },
    });
  });

  it('says that new weights were taken before the difference, which no trace holds', async () => {
    const run = await RecordedRun.create();
    run.apply({ type: 'beginWeightUpdate' });
    run.apply({ type: 'finishWeightUpdate', version: 2 });
    run.add({ id: 1 });
    run.finish();
    const path = await changed(await run.bytes(), (steps) => {
      steps.tokenIdsArray()![0]! ^= 1;
    });
    const file = readFileSync(path);
    const { hints } = await differenceOf(scratch.write('weights.kdz', file), { executor: run.executor() });
    expect(hints.join(' ')).toMatch(/new weights by this step \(version 2\)/);
  });
});

describe('a replay of plans', () => {
  it('finds a changed token at the first plan that it enters, with request, field and both values', async () => {
    const { file } = await smallRun(1);
    let recorded = 0;
    const path = await changedResult(file, 2, ({ tokenIds }) => {
      const tokens = tokenIds as number[];
      recorded = tokens[0]!;
      tokens[0] = recorded ^ 1;
    });
    const difference = await differenceOf(path);
    expect(difference).toMatchObject({ step: 3, request: 1, sample: 0, position: 11 });
    expect(difference).toMatchObject({
      ...{ field: 'plan.sequences[0].token_ids[0]', left: String(recorded), right: String(recorded ^ 1) },
    });
    expect(difference.hints.join(' ')).toMatch(
      /replayed plan of this step: 3 rows \(request 1 sample 0 at 11; /,
    );
  });

  it('without plans tells both digests, the plan in words, and to record with plans', async () => {
    const { file } = await smallRun(1, { plans: false });
    const path = await changedResult(file, 2, ({ tokenIds }) => {
      const tokens = tokenIds as number[];
      tokens[0] = tokens[0]! ^ 1;
    });
    const difference = await differenceOf(path);
    expect(difference).toMatchObject({ step: 3, field: 'digest', request: null });
    expect(difference.left).toMatch(/^0x[0-9a-f]{16}$/);
    expect(difference.right).toMatch(/^0x[0-9a-f]{16}$/);
    expect(difference.left).not.toBe(difference.right);
    expect(difference.hints.join(' ')).toMatch(/request 1 sample 0 at 11; .*--record-plans/s);
  });

  it('sees a changed digest, and that the plan itself is as it was', async () => {
    const { file } = await smallRun(2);
    const path = await changed(file, (steps) => {
      const entry = steps.steps(4)!;
      entry.bb!.bytes()[entry.bb_pos]! ^= 1;
    });
    const difference = await differenceOf(path);
    expect(difference).toMatchObject({ step: 5, field: 'digest' });
    expect(BigInt(difference.left) ^ BigInt(difference.right)).toBe(1n);
    expect(difference.hints.join(' ')).toMatch(/byte for byte: the digest itself was changed/);
  });

  it('names the field of a plan that differs, though its digest is the recorded one', async () => {
    const { file } = await smallRun(2);
    const path = await changed(file, (steps) => {
      const [begin, end] = [Math.ceil(steps.planEnd(1)! / 8) * 8, steps.planEnd(2)!];
      const plan = steps.plansArray()!.subarray(begin, end);
      plan[wordsAt(plan, [11, 11, 19]) + 4]! = 99; // where the three sequences start
    });
    const recorded = (await instructionsOf(path))[2]!;
    expect(recorded.type === 'stepPlan' && recorded.sequences[1]!.start).toBe(99);
    expect(await differenceOf(path)).toMatchObject({
      ...{ step: 3, request: 1, sample: 1, field: 'plan.sequences[1].start', left: '99', right: '11' },
    });
  });

  it('does not read a recorded plan that is none', async () => {
    const { file } = await smallRun(2);
    const path = await changed(file, (steps) => {
      const begin = Math.ceil(steps.planEnd(1)! / 8) * 8;
      steps.plansArray()!.fill(0xff, begin, begin + 4);
    });
    expect(await differenceOf(path)).toMatchObject({ step: 3, field: 'plan', right: 'an instruction' });
    expect((await differenceOf(path)).left).toMatch(/^no instruction: /);
  });

  it('sees an end that does not fit', async () => {
    const { file } = await smallRun(2);
    const wordsOf = (stored: Uint8Array, value: bigint) =>
      Array.from({ length: stored.byteLength / 8 }, (_, i) => 8 * i).filter(
        (at) => Buffer.from(stored).readBigUInt64LE(at) === value,
      );
    const frames = framesOf(file);
    const { digest, numSteps } = await endOf(file);
    const end = frames.length - 1;
    for (const [value, field] of [
      [digest, 'end.digest'],
      [BigInt(numSteps), 'end.num_steps'],
    ] as const) {
      const [at] = wordsOf(frames[end]!.stored, value);
      const bytes = await withPayloads(file, ({ stored }, i) => {
        if (i !== end) return null;
        const copy = Buffer.from(stored);
        copy.writeBigUInt64LE(value + 1n, at);
        return copy;
      });
      expect(await differenceOf(scratch.write('end.kdz', bytes))).toMatchObject({ step: numSteps, field });
    }
  });

  it('finds a result that does not fit its plan', async () => {
    const run = await RecordedRun.create();
    run.add({ id: 1 }, { id: 2 });
    run.finish();
    const path = await changed(await run.bytes(), (steps) => {
      for (const [index, count] of [
        [2, 1],
        [3, 3],
      ] as const) {
        const entry = steps.steps(index)!;
        entry.bb!.writeInt32(entry.bb_pos + 16, count);
      }
    });
    expect(await differenceOf(path)).toMatchObject({
      ...{ step: 3, field: 'result', left: 'was committed', right: 'is refused: result_malformed' },
    });
  });

  it('compares with a core of another hash all the same, and gives both hashes', async () => {
    const { file } = await smallRun(2);
    // A custom section changes the hash and nothing else.
    const other = Buffer.concat([readFileSync(CORE), Buffer.from([0, 5, 4, 0x6b, 0x61, 0x64, 0x7a])]);
    const report = await replayTrace(scratch.write('other.kdz', file), { wasm: other });
    expect(report).toMatchObject({ difference: null, ended: 'end' });
    expect(report.coreSha256.replayed).not.toBe(report.coreSha256.recorded);
  });

  it('tells a core that stops on a broken invariant, at the step where it does', async () => {
    const { file } = await smallRun(2);
    const wasm = await buildChangedCore([
      { file: 'scheduler.ts', from: 'clearPlan(c);', to: "clearPlan(c); ensure(c.step < 4, 'planted');" },
    ]);
    expect(await differenceOf(scratch.write('stops.kdz', file), { wasm })).toMatchObject({
      ...{ step: 3, field: 'core', left: 'the step was executed' },
      right: expect.stringMatching(/^the core stopped on a broken invariant: planted/),
    });
  });
});

describe('a replay until a step', () => {
  it('stops when that step is committed, and gives stats, requests and sequences', async () => {
    const { file } = await smallRun(2);
    const path = scratch.write('until.kdz', file);
    const report = await replayTrace(path, { until: 3 });
    expect(report).toMatchObject({ ended: 'until', numSteps: 3, difference: null });
    const { stats, inventory, step } = report.state!;
    expect([step, stats.numRunning, stats.generationTokens, stats.numStepsInFlight]).toEqual([3, 3, 9, 1]);
    expect(inventory.requests.map(({ id }) => id)).toEqual([1, 2]);
    expect(inventory.sequences.map(({ request, sample, numTokens }) => [request, sample, numTokens])).toEqual(
      [
        [1, 0, 13],
        [1, 1, 13],
        [2, 0, 21],
      ],
    );
    const atEnd = await replayTrace(path, { until: 'end' });
    expect(atEnd.state).toMatchObject({ step: atEnd.numSteps, inventory: { requests: [], sequences: [] } });
  });

  it('gives no state when the trace does not come to that step', async () => {
    const { file } = await smallRun(2);
    const report = await replayTrace(scratch.write('short.kdz', file), { until: 1000 });
    expect(report).toMatchObject({ ended: 'end', state: null });
  });
});

describe('a replay that is interrupted', () => {
  it('ends between two events, and says how far all was equal', async () => {
    const run = await RecordedRun.create({ maxModelLen: 1024 });
    run.add({ id: 1, maxTokens: 900 });
    run.finish();
    const path = scratch.write('long.kdz', await run.bytes());
    const stop = new AbortController();
    const report = await replayTrace(path, { signal: stop.signal, onProgress: () => stop.abort() });
    expect(report).toMatchObject({ ended: 'interrupted', difference: null, problem: null });
    expect(report.numSteps).toBeGreaterThan(100);
    expect(report.numSteps).toBeLessThan(900);
  });
});

/** Where these words stand one after the other. */
function wordsAt(bytes: Uint8Array, words: number[]): number {
  const at = Buffer.from(bytes).indexOf(Buffer.from(Uint32Array.from(words).buffer));
  expect(at).toBeGreaterThan(0);
  return at;
}

async function endOf(file: Buffer): Promise<{ digest: bigint; numSteps: number }> {
  const reader = await TraceReader.open(scratch.write('end.kdz', file));
  const end = [...reader.events()].at(-1)!;
  reader.close();
  if (end.kind !== 'end') throw new Error('the trace has no end');
  return end;
}
