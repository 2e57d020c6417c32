import { describe, expect, it } from 'vitest';
import { type BisectReport, bisectTraces } from '../../src/trace/index.js';
import { buildChangedCore } from '../support/changed_core.js';
import { changedSteps, framesOf, scratchFolder, withPayloads } from './damage.js';
import { promptOf, RecordedRun, type RequestDraft } from './recorded_run.js';

const scratch = scratchFolder();

interface Variant {
  maxNumSeqs?: number;
  plans?: boolean;
  /** The second command. */
  second?: RequestDraft;
  /** Steps before the second command. */
  stepsBetween?: number;
  /** Of sample 0 of step 4. */
  token?: number;
  /** A third command. */
  more?: boolean;
}

async function variant({
  maxNumSeqs = 8,
  plans = true,
  second = { id: 2 },
  stepsBetween = 2,
  token,
  more = false,
}: Variant = {}) {
  const run = await RecordedRun.create({ maxNumSeqs, maxStepsInFlight: 1 }, { plans });
  run.add({ id: 1, maxTokens: 10 });
  run.steps(stepsBetween);
  run.add(second);
  run.schedule();
  run.commit();
  if (token !== undefined) {
    run.schedule();
    run.commit((result) => ({ ...result, tokenIds: [token, ...Array.from(result.tokenIds!).slice(1)] }));
    run.apply({ type: 'abortRequests', all: true });
  } else {
    run.finish();
  }
  if (more) run.add({ id: 9 });
  run.finish();
  return run.bytes();
}

async function bisect(a: Variant | Buffer, b: Variant | Buffer): Promise<BisectReport> {
  const [left, right] = await Promise.all(
    [a, b].map((side) => (Buffer.isBuffer(side) ? side : variant(side))),
  );
  return bisectTraces([scratch.write('a.kdz', left!), scratch.write('b.kdz', right!)]);
}

const PREFILL_CAP = {
  file: 'scheduler.ts',
  from: 'return c.longPrefillTokenThreshold > 0 ? min(c.longPrefillTokenThreshold, budget) : budget;',
  to: 'return min<u32>(8, budget);',
};

async function recordedBy(wasm: Uint8Array | undefined): Promise<Buffer> {
  const run = await RecordedRun.create({}, { wasm });
  run.add({ id: 1, promptTokenIds: promptOf(20, 1) });
  run.finish();
  return run.bytes();
}

describe('bisecting two traces', () => {
  it('finds equal ones equal', async () => {
    expect(await bisect({}, {})).toMatchObject({
      difference: null,
      numCommands: 2,
      problems: [null, null],
      notes: [],
    });
  });

  it('tells the first result that differs, by step, request, sample and position', async () => {
    const { difference, numSteps } = await bisect({ token: 7 }, { token: 8 });
    expect(numSteps).toBe(3);
    expect(difference).toMatchObject({
      ...{ step: 4, request: 1, sample: 0, position: 13, field: 'token_ids[0]', left: '7', right: '8' },
    });
  });

  it('tells the first plan that differs, by request and field, when the results before it were equal', async () => {
    const file = await variant();
    const index = framesOf(file).findLastIndex(({ kind }) => kind === 'steps');
    const other = await withPayloads(file, ({ stored }, i) =>
      i === index
        ? changedSteps(stored, (steps) => {
            const entry = steps.steps(1)!;
            entry.bb!.bytes()[entry.bb_pos]! ^= 1;
          })
        : null,
    );
    const { difference } = await bisect(file, other);
    expect(difference).toMatchObject({ step: 4, field: 'digest' });
    expect(difference!.hints.join(' ')).toMatch(/^A plans 2 rows .* What B planned is another core's work/);
  });

  it('says which field of the configuration differs, and does not compare further', async () => {
    const { difference, numSteps } = await bisect({}, { maxNumSeqs: 4 });
    expect(numSteps).toBe(0);
    expect(difference).toMatchObject({ step: 0, field: 'configuration.max_num_seqs', left: '8', right: '4' });
    expect(difference!.hints.join(' ')).toMatch(/different configurations/);
  });

  it('says which command differs, in which field of which request', async () => {
    const { difference } = await bisect({}, { second: { id: 2, temperature: 0.5 } });
    expect(difference).toMatchObject({
      ...{ step: 2, request: 2, field: 'command 2.requests[0].temperature', left: '1', right: '0.5' },
    });
    expect(difference!.hints.join(' ')).toMatch(/add_requests with the id 2/);
  });

  it('says that the same command came after another step', async () => {
    const { difference } = await bisect({ stepsBetween: 2 }, { stepsBetween: 4 });
    expect(difference).toMatchObject({ step: 2, field: 'command 2.after_step', left: '2', right: '4' });
    const { difference: mirrored } = await bisect({ stepsBetween: 4 }, { stepsBetween: 2 });
    expect(mirrored).toMatchObject({ step: 2, field: 'command 2.after_step', left: '4', right: '2' });
  });

  it('says that one of them has a command more', async () => {
    const { difference } = await bisect({}, { more: true });
    expect(difference).toMatchObject({
      ...{ field: 'command 3', left: 'the end of the run', right: 'add_requests with the id 3' },
    });
  });

  it('compares as far as a cut one goes, and says where it ends', async () => {
    const file = await variant();
    const { difference, problems, numSteps } = await bisect(file, file.subarray(0, file.byteLength - 8));
    expect(difference).toBeNull();
    expect(numSteps).toBeGreaterThan(8);
    expect(problems).toMatchObject([null, { kind: 'cut' }]);
  });

  it('tells a plan that another core made by request and field, since both traces have plans', async () => {
    const wasm = await buildChangedCore([PREFILL_CAP]);
    const [a, b] = await Promise.all([undefined, wasm].map((core) => recordedBy(core)));
    const { difference, notes } = await bisect(a!, b!);
    expect(difference).toMatchObject({
      ...{ step: 1, request: 1, sample: 0, position: 0 },
      ...{ field: 'plan.sequences[0].num_tokens', left: '20', right: '8' },
    });
    expect(difference!.hints.join(' ')).toMatch(
      /^A plans 20 rows \(request 1 sample 0 from 0 to 19\), .* What B planned is another core's/,
    );
    expect(notes).toEqual([expect.stringMatching(/^core_sha256: A has [0-9a-f]{64}, B has [0-9a-f]{64}$/)]);
  });

  it('names what differs in the headers beside', async () => {
    const run = await RecordedRun.create({ maxStepsInFlight: 1 }, { hostFingerprint: 'cpu other' });
    run.add({ id: 1, maxTokens: 10 });
    const { notes } = await bisect({}, await run.bytes());
    expect(notes).toEqual(['host_fingerprint: A has none, B has cpu other']);
  });
});
