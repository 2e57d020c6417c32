import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { COMMAND_FAULTS, RESULT_FAULTS } from '../../dist/sim/faults/swarm.js';
import { runSeed } from '../../dist/sim/random.js';
import { type RunTask, recordOnce, runOnce } from '../../dist/sim/run_task.js';
import { runSession } from '../../dist/sim/session.js';
import { replayTrace } from '../../dist/trace/index.js';
import { buildChangedCore } from '../support/changed_core.js';
import { runCli } from '../support/run_cli.js';

const folder = mkdtempSync(join(tmpdir(), 'kadenz-simulate-'));
afterAll(() => rmSync(folder, { recursive: true }));

const TASK = { steps: 120, workload: 'any', faults: 'swarm', kadenzVersion: 'test' } as const;

function session(runs: number, rest: Partial<Parameters<typeof runSession>[0]> = {}) {
  return runSession({ ...TASK, seed: 3n, runs, ...rest });
}

describe('a session', () => {
  it('of 200 runs of 500 steps under faults finds nothing, and has seen every fault', {
    timeout: 120_000,
  }, async () => {
    const report = await session(200, { seed: 1n, steps: 500 });
    expect(report.failure).toBeNull();
    expect(report.runs).toBe(200);
    expect(report.totals.steps).toBeGreaterThan(200 * 450);
    expect(report.totals.preemptions).toBeGreaterThan(1000);
    expect(report.totals.cachedPromptTokens).toBeGreaterThan(10_000);
    // A shutdown in the middle ends a run, and is rare enough to be missing here.
    const kinds = [...COMMAND_FAULTS, ...RESULT_FAULTS, 'trace_cut'].filter(
      (kind) => kind !== 'early_shutdown',
    );
    expect(Object.keys(report.totals.faults)).toEqual(expect.arrayContaining(kinds));
    for (const count of Object.values(report.totals.endings)) expect(count).toBeGreaterThan(100);
  });

  it('without faults ends no sample by abort or error', async () => {
    const { failure, totals } = await session(12, { faults: 'none' });
    expect(failure).toBeNull();
    expect(totals).toMatchObject({ faults: {}, endings: { abort: 0, error: 0 } });
    expect(totals.endings.stop + totals.endings.length).toBeGreaterThan(100);
  });

  it('gives the same totals and the same digest with one thread and with three', async () => {
    const [one, three] = [await session(12, { workers: 1 }), await session(12, { workers: 3 })];
    expect(three).toEqual(one);
    expect(one.digest).toMatch(/^[0-9a-f]{64}$/);
    expect((await session(12, { seed: 4n })).digest).not.toBe(one.digest);
  });

  it('gives each run a seed that reproduces it alone', async () => {
    const both = await session(2);
    const [first, second] = [await session(1), await session(1, { seed: runSeed(3n, 1) })];
    expect(first.totals.tokens + second.totals.tokens).toBe(both.totals.tokens);
    expect(first.totals.steps + second.totals.steps).toBe(both.totals.steps);
  });

  it('that is interrupted tells what was done so far', async () => {
    const stop = new AbortController();
    const report = await session(400, { workers: 1, signal: stop.signal, onProgress: () => stop.abort() });
    expect(report.wasInterrupted).toBe(true);
    expect(report.failure).toBeNull();
    expect(report.runs).toBeGreaterThan(0);
    expect(report.runs).toBeLessThan(400);
  });
});

describe('a run that fails', () => {
  /** A core whose tokens come twice. */
  const task = async (): Promise<RunTask> => {
    const from = '  c.numOutFinishes = 0;\n';
    const wasm = await buildChangedCore([{ file: 'output.ts', from, to: '' }]);
    return { ...TASK, seed: 5n, wasm };
  };

  it('fails again at the same step with the same sentence and the same trace, byte for byte', async () => {
    const failing = await task();
    const first = await recordOnce(failing);
    expect(first.outcome).toHaveProperty('failure');
    const second = await recordOnce(failing);
    expect(second.outcome).toEqual(first.outcome);
    expect(await runOnce(failing)).toEqual(first.outcome);
    expect(Buffer.compare(second.recording.bytes(), first.recording.bytes())).toBe(0);
  });

  it('leaves a trace that replays on its own core up to the step that failed', async () => {
    const failing = await task();
    const { outcome, recording } = await recordOnce(failing);
    const path = join(folder, 'failed.kdz');
    await recording.writeTo(path);
    const report = await replayTrace(path, { wasm: failing.wasm });
    expect(report).toMatchObject({ difference: null, ended: 'end' });
    const { failure } = outcome as { failure: { step: number } };
    expect(report.numSteps).toBeGreaterThanOrEqual(failure.step);
    expect(report.numSteps).toBeLessThanOrEqual(failure.step + 1);
  });
});

describe('kadenz simulate', () => {
  it('prints a summary with the digest of all runs, the same as JSON', async () => {
    const flags = ['simulate', '--seed', '3', '--runs', '4', '--steps', '60'];
    const text = await runCli(flags);
    expect(text).toMatchObject({ exitCode: 0, stderr: '' });
    expect(text.stdout).toMatch(
      /^4 runs, [\d,]+ steps, [\d,]+ tokens, [\d,.]+ virtual hours\ndigest [0-9a-f]{64}\n/,
    );
    const { lines } = await runCli([...flags, '--json', '--workers', '1']);
    expect(text.stdout).toContain(lines[0]!.digest);
    expect(lines[0]).toMatchObject({ runs: 4, interrupted: false });
  });

  it('takes a workload from a file, and ends when all of it has been served', async () => {
    const path = join(folder, 'workload.jsonl');
    const requests = [
      { arrival_s: 0, prompt_tokens: 900, output_tokens: 60, n: 4, prefix_group: 'a' },
      { arrival_s: 0.01, prompt_tokens: 700, output_tokens: 20, priority: -1, prefix_group: 'a' },
      { arrival_s: 3, prompt_tokens: 30, output_tokens: 300 },
    ];
    writeFileSync(path, requests.map((request) => `${JSON.stringify(request)}\n`).join(''));
    const flags = ['simulate', '--seed', '9', '--workload', path, '--faults', 'none', '--json'];
    const { exitCode, lines } = await runCli(flags);
    expect(exitCode).toBe(0);
    expect(lines[0]).toMatchObject({ requests: 3 });
    const { stop, length, refused } = (lines as unknown as { samples: Record<string, number> }[])[0]!.samples;
    expect(stop! + length! + refused!).toBe(6);
  });

  it.each([
    [['--runs', '2'], '--seed'],
    [['--seed', '-1'], 'whole number from 0'],
    [['--seed', '1', '--runs', '0'], '--runs is 0'],
    [['--seed', '1', '--steps', '1.5'], '--steps is 1.5'],
    [['--seed', '1', '--workload', 'nothing.jsonl'], 'rl, chat, burst'],
  ])('refuses %j with a sentence that helps', async (flags, words) => {
    const { exitCode, stderr, stdout } = await runCli(['simulate', ...flags]);
    expect(exitCode).toBe(1);
    expect(stderr).toContain(words);
    expect(stderr).toContain('(invalid_argument)');
    expect(stdout).toBe('');
  });

  it('names the line and the field of a workload that it can not take', async () => {
    const path = join(folder, 'broken.jsonl');
    writeFileSync(
      path,
      '{"prompt_tokens": 4, "output_tokens": 2}\n{"prompt_tokens": 0, "output_tokens": 2}\n',
    );
    const { stderr } = await runCli(['simulate', '--seed', '1', '--workload', path]);
    expect(stderr).toContain('Line 2 of');
    expect(stderr).toContain('prompt_tokens 0; it must be a whole number from 1');
    expect(readFileSync(path, 'utf8')).toContain('"prompt_tokens": 0');
  });
});
