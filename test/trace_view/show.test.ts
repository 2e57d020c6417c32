import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type History, readHistory } from '../../src/trace/index.js';
import { describeStep, stepText, summaryOf, summaryText } from '../../src/trace/view/index.js';
import { runCli } from '../support/run_cli.js';
import { eventfulRun, promptOf, RecordedRun, ROW_US, removeRecordings, STEP_US } from './recorded.js';

let run: RecordedRun;
let history: History;

beforeAll(async () => {
  run = await eventfulRun();
  history = await readHistory(run.path);
});

afterAll(removeRecordings);

const show = (...parameters: string[]) => runCli(['trace', 'show', ...parameters]);

/** One prompt of 30 tokens, two samples of 4 tokens each, one step in flight: all can be counted by hand. */
async function smallRun(): Promise<RecordedRun> {
  const small = await RecordedRun.create('small.kdz', { maxStepsInFlight: 1 });
  small.wait(500);
  small.apply({
    type: 'addRequests',
    requests: [{ id: 9, n: 2, promptTokenIds: promptOf(30, 1), maxTokens: 4, ignoreEos: true }],
  });
  small.run();
  await small.end();
  return small;
}

describe('the summary of a run', () => {
  it('counts requests, samples by their ends, and tokens as the core did', () => {
    const summary = summaryOf(history);
    const { stats } = history;
    expect(summary).toMatchObject({
      ...{ requests: 7, samples: 18, steps: run.plans.length, controlSteps: 3 },
      ...{ generatedTokens: stats.generationTokens, preemptions: stats.numPreemptions, sameCore: true },
      ends: { stop: 1, length: 10, abort: 5, refused: 2 },
    });
    expect(summary.prefixHitShare).toBeCloseTo(stats.cachedPromptTokens / stats.promptTokens, 12);
    for (const bins of [summary.sequencesHistogram, summary.heldBlocksHistogram])
      expect(bins.reduce((sum, { share }) => sum + share, 0)).toBeCloseTo(1, 9);
  });

  it('measures times of a run that can be counted by hand', async () => {
    const small = await smallRun();
    const summary = summaryOf(await readHistory(small.path));
    // A prefill of 30 rows, then three steps of two rows.
    const busyUs = 4 * STEP_US + 36 * ROW_US;
    expect(summary).toMatchObject({
      ...{
        steps: 4,
        wallUs: busyUs,
        generatedTokens: 8,
        computedRows: 36,
        peakSequences: 2,
      },
      ...{ tailAfter90Share: 0, belowHalfPeakShare: 0 },
      tokensPerSecond: 8_000_000 / busyUs,
    });
    // The first step computes one sequence, the others two.
    expect(summary.meanSequences).toBeCloseTo((STEP_US + 300 + 2 * 3 * (STEP_US + 20)) / busyUs, 9);
    expect(summary.sequencesHistogram.map(({ from, to }) => [from, to])).toEqual([
      [1, 1],
      [2, 2],
    ]);
  });

  it('does not count the time until an engine is closed', async () => {
    const idle = await RecordedRun.create('idle.kdz', { maxStepsInFlight: 1 });
    idle.wait(700);
    idle.apply({ type: 'addRequests', requests: [{ id: 1, promptTokenIds: promptOf(30, 1), maxTokens: 2 }] });
    idle.run();
    idle.wait(60_000_000);
    idle.apply({ type: 'shutdown' });
    idle.run();
    const summary = summaryOf(await readHistory(await idle.end()));
    expect(summary).toMatchObject({ steps: 3, controlSteps: 1, wallUs: 2 * STEP_US + 31 * ROW_US });
  });

  it('takes for the tail what comes after nine tenths of the samples have ended', async () => {
    const tail = await RecordedRun.create('tail.kdz', { maxStepsInFlight: 1, maxNumSeqs: 10 });
    const request = (id: number, maxTokens: number) => {
      return { id, promptTokenIds: promptOf(8, id), maxTokens, ignoreEos: true };
    };
    tail.apply({
      type: 'addRequests',
      requests: Array.from({ length: 10 }, (_, i) => request(i + 1, i === 9 ? 40 : i >= 5 ? 10 : 4)),
    });
    tail.run();
    const told = await readHistory(await tail.end());
    const ends = told.requests.map(({ samples }) => samples[0]!.end!.timeUs);
    const summary = summaryOf(told);
    expect(summary.tailAfter90Share).toBeCloseTo((ends[9]! - ends[8]!) / summary.wallUs, 12);
    expect(summary.tailAfter90Share).toBeGreaterThan(0.6);
    const alone = 30 * (STEP_US + ROW_US);
    expect(summary.belowHalfPeakShare).toBeCloseTo(alone / summary.busyUs, 12);
  });
});

describe('kadenz trace show', () => {
  it('prints a run on one screen, and the same as JSON', async () => {
    const text = await show(run.path);
    expect(text).toMatchObject({ exitCode: 0, stderr: '' });
    expect(text.stdout).toContain('recorded  2026-11-01 12:30:00 UTC by Kadenz 0.1.0');
    expect(text.stdout).toContain('requests   7 with 18 samples: 1 stop, 10 length, 5 abort, 2 refused');
    expect(text.stdout).toContain('Batch size, in sequences (peak');
    expect(text.stdout).toContain('█');
    const { lines } = await show(run.path, '--json');
    expect(lines[0]).toMatchObject({
      generated_tokens: history.stats.generationTokens,
      num_blocks: 60,
      ending: 'whole',
    });
  });

  it('gives a terminal no command that stands in a trace, and takes any number for a date', async () => {
    const { stdout } = await show(run.path);
    expect(stdout).toContain('models/</script><b>?[2J');
    expect(summaryText({ ...summaryOf(history), createdUnixMs: 2 ** 63 })).toContain('at an unknown time');
  });

  it('tells one step: who computes what with which blocks, and what came out', async () => {
    const small = await smallRun();
    const first = await show(small.path, '--step', '1');
    expect(first.exitCode).toBe(0);
    expect(first.stdout).toContain(
      'Step 1: 30 rows of 1 sequence: 30 of prefill (1 sequence), 0 of decode; 2 tokens sampled',
    );
    expect(first.stdout).toContain(
      'request 9 sample 0  slot 0, opened here; prefill of positions 0-29; new blocks 0-1',
    );
    expect(first.stdout).toContain('request 9 sample 1  slot 1, opened here; blocks 0-1 of sample 0');
    expect(first.stdout).toContain('request 9 sample 0  token 1 of its output is 7, log-prob -0.02929688');
    const second = await show(small.path, '--step', '2');
    expect(second.stdout).toMatch(/block 1 to 2 {2}for request 9 sample 0, which writes into it/);
    expect(second.stdout).toContain('slot 1; decode of position 30');
  });

  it('describes each step so that it fits the plan, the dropped tokens too', async () => {
    let dropped = 0;
    let preempted = 0;
    for (const [i, plan] of run.plans.entries()) {
      const told = history.steps.row(i + 1);
      // Every third, and all in which something is dropped or preempted.
      if (i % 3 > 0 && told.preemptions === 0 && told.samples === told.tokens) continue;
      const description = describeStep(await readHistory(run.path, { step: i + 1 }), i + 1);
      preempted += description.preempted.length;
      expect(stepText(description)).toContain(`Step ${i + 1}: `);
      if (plan.type !== 'stepPlan') {
        expect(description.type).toBe(plan.type);
        continue;
      }
      expect(description.computes.map(({ slot, start, rows }) => [slot, start, rows])).toEqual(
        plan.sequences.map(({ slot, start, numTokens }) => [slot, start, numTokens]),
      );
      const blocks = [
        ...description.computes.flatMap((entry) => [...entry.cachedBlocks, ...entry.newBlocks]),
      ];
      blocks.push(...description.shares.flatMap((entry) => entry.blocks));
      expect(blocks.sort((a, b) => a - b)).toEqual(
        plan.tableChanges.map(({ block }) => block).sort((a, b) => a - b),
      );
      dropped += description.sampled.filter((entry) => entry.dropped).length;
      const prefillRows = description.computes.reduce(
        (sum, entry) => sum + (entry.prefill ? entry.rows : 0),
        0,
      );
      expect([i + 1, prefillRows]).toEqual([i + 1, told.prefillRows]);
    }
    const sampled = history.steps.column('samples').reduce((sum, count) => sum + count, 0);
    expect(dropped).toBe(sampled - history.stats.generationTokens);
    expect(dropped).toBeGreaterThan(0);
    expect(preempted).toBe(history.steps.column('preemptions').reduce((sum, count) => sum + count, 0));
  });

  it("tells a request's life, decode steps folded", async () => {
    const small = await smallRun();
    const { stdout, exitCode } = await show(small.path, '--request', '9');
    expect(exitCode).toBe(0);
    expect(stdout).toContain('Request 9: 30 prompt tokens, 2 samples of at most 4 tokens');
    expect(stdout).toContain(
      '  step 1     prefill, positions 0-29; token 1 sampled\n  steps 2-4  decode, tokens 2-4\n',
    );
    expect(stdout).toContain('Sample 1: 4 tokens; ended in step 4 at');
    expect(stdout).toContain('  steps 1-4  fan-out, then decode, tokens 1-4');
    const { lines } = await show(small.path, '--request', '9', '--json');
    expect(lines[0]).toMatchObject({
      id: 9,
      samples: [
        { sample: 0, tokens: 4 },
        { sample: 1, tokens: 4 },
      ],
    });
  });

  it('tells a preemption, and the versions that sampled', async () => {
    const sample = history.requests.flatMap(({ id, samples }) => samples.map((each) => ({ id, ...each })));
    const victim = sample.find(
      ({ preemptions, weightVersions }) => preemptions > 0 && weightVersions.length > 1,
    )!;
    const { stdout } = await show(run.path, '--request', String(victim.id));
    expect(stdout).toMatch(/preempted while step \d+ was planned; waited until step \d+/);
    expect(stdout).toMatch(/prefill again, positions/);
    expect(stdout).toMatch(/sampled by version 0 \(\d+ tokens?\), version 1 \(\d+ tokens?\)/);
  });

  it('refuses what is not there with a sentence', async () => {
    const step = await show(run.path, '--step', '100000');
    expect(step.exitCode).toBe(1);
    expect(step.stderr).toContain(
      `There is no step 100000 to show: the trace has ${run.plans.length} committed steps.`,
    );
    const request = await show(run.path, '--request', '77');
    expect(request.stderr).toContain('The trace holds no request 77. Its requests are 1, 2, 3, 4, 5, ');
    expect((await show(run.path, '--step', '0')).stderr).toContain('It must be a step number, from 1.');
    expect((await show(run.path, '--step', '1', '--request', '1')).stderr).toContain(
      'Give --step or --request, not both',
    );
    expect((await show('/nowhere.kdz')).stderr).toContain('(trace_not_found)');
  });

  it('shows a killed run as far as it went, and says so', async () => {
    const killed = await RecordedRun.create('killed.kdz');
    killed.apply({
      type: 'addRequests',
      requests: [{ id: 1, promptTokenIds: promptOf(20, 1), maxTokens: 50 }],
    });
    for (let i = 0; i < 10; i += 1) killed.step();
    killed.apply({ type: 'abortRequests', requestIds: [99] });
    const path = await killed.kill();
    const text = await show(path);
    expect(text.exitCode).toBe(0);
    expect(text.stdout).toContain('cut       The trace ends after frame');
    expect(text.stdout).toContain('1 unfinished');
    const life = await show(path, '--request', '1');
    expect(life.stdout).toContain('not ended when the trace ends');
    expect(life.stderr).toContain('warning: The trace ends after frame');
  });
});
