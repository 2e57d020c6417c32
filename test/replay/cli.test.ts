import { readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { decodeInstruction, encodeResult, resultFor } from '../../src/core/index.js';
import { runCli } from '../support/run_cli.js';
import { changedSteps, framesOf, scratchFolder, withPayloads } from './damage.js';
import { goldenPath } from './make_golden.js';
import { RecordedRun } from './recorded_run.js';

const scratch = scratchFolder();
const fanOut = goldenPath('fan_out');
const keep = goldenPath('pause_keep');
let cut: string;
let corrupt: string;
let wrong: string;

beforeAll(async () => {
  const file = readFileSync(fanOut);
  cut = scratch.write('cut.kdz', file.subarray(0, file.byteLength - 60));
  const damaged = Buffer.from(file);
  damaged[framesOf(file).at(-1)!.begin + 30]! ^= 1;
  corrupt = scratch.write('corrupt.kdz', damaged);
  const changed = await withPayloads(file, (frame) =>
    frame.kind === 'steps'
      ? changedSteps(frame.stored, (steps) => {
          const entry = steps.steps(2)!;
          entry.bb!.bytes()[entry.bb_pos]! ^= 1;
        })
      : null,
  );
  wrong = scratch.write('wrong.kdz', changed);
});

/** A trace that takes seconds to replay. */
async function longTrace(): Promise<string> {
  const run = await RecordedRun.create({ maxModelLen: 2 ** 17, numBlocks: 2 ** 13 }, { plans: false });
  run.record({ id: 1, maxTokens: 30_000 }, (bytes) =>
    encodeResult(resultFor(decodeInstruction(bytes), () => 5)),
  );
  return scratch.write('long.kdz', await run.bytes());
}

describe('kadenz replay', () => {
  it('exits with 0 and says what was compared when all is equal', async () => {
    const { exitCode, stdout, stderr } = await runCli(['replay', fanOut]);
    expect([exitCode, stdout]).toEqual([
      0,
      `${fanOut}: equal: 6 steps, 1 command, 24 tokens (plans byte for byte)\n`,
    ]);
    expect(stderr.replaceAll(/.*was recorded by another core.*\n/g, '')).toBe('');
  });

  it('exits with 1 and the first difference by step, field and both values', async () => {
    const { exitCode, stdout } = await runCli(['replay', wrong]);
    expect(exitCode).toBe(1);
    const [verdict, ...lines] = stdout.split('\n');
    expect(verdict).toBe(`${wrong}: differs at step 3, after 2 steps, 1 command, 8 tokens that are equal`);
    expect(lines[0]).toBe('  field     digest');
    expect(lines[1]).toMatch(/^ {2}recorded {2}0x[0-9a-f]{16}$/);
    expect(lines[2]).toMatch(/^ {2}replayed {2}0x[0-9a-f]{16}$/);
  });

  it('prints JSON with --json', async () => {
    const { lines } = await runCli(['replay', wrong, '--json']);
    expect(lines).toMatchObject([
      {
        trace: wrong,
        mode: 'plans',
        equal: false,
        steps: 2,
        ended: 'difference',
        difference: { step: 3, field: 'digest' },
      },
    ]);
  });

  it('replays a cut trace as far as it goes, exits with 0, and says on standard error where it ends', async () => {
    const { exitCode, stdout, stderr } = await runCli(['replay', cut]);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/: equal: 6 steps, 1 command, 24 tokens, as far as the trace goes \(/);
    expect(stderr).toMatch(
      /kadenz: .*cut\.kdz: the trace ends within frame 3, at byte \d+\. It was replayed up to there: 6 steps\./,
    );
  });

  it('exits with 1 at a damaged trace, with the frame and what was equal before', async () => {
    const { exitCode, stdout } = await runCli(['replay', corrupt]);
    expect(exitCode).toBe(1);
    expect(stdout).toMatch(
      /corrupt\.kdz: damaged after 6 steps, 1 command, 24 tokens that are equal: frame 3 at byte \d+ is damaged: its checksum does not fit\.\n$/,
    );
  });

  it('prints the state after --until a step, as tables and as JSON', async () => {
    const { exitCode, stdout } = await runCli(['replay', keep, '--until', '4']);
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(/State after step 4\n/);
    expect(stdout).toMatch(/num_running +4\n/);
    expect(stdout).toMatch(
      /request +sample +state +slot +tokens +computed +blocks +preempted\n +1 +0 +running +0 +14 /,
    );
    const { lines } = await runCli(['replay', keep, '--until', '4', '--json']);
    expect(lines).toMatchObject([
      {
        ended: 'until',
        state: {
          step: 4,
          stats: { num_running: 4, paused: true },
          inventory: { requests: [{ id: 1 }, { id: 2 }, { id: 3 }] },
        },
      },
    ]);
  });

  it('says so when the trace does not come to that step', async () => {
    const { exitCode, stderr } = await runCli(['replay', fanOut, '--until', '7']);
    expect([exitCode, stderr]).toEqual([
      1,
      expect.stringMatching(/has 6 steps, so it does not come to step 7\. --until end/),
    ]);
  });

  it('replays several side by side, a line each in the order given, and exits with 1 when one differs', async () => {
    const missing = `${fanOut}.missing`;
    const { exitCode, stdout } = await runCli(['replay', keep, wrong, missing, fanOut, cut]);
    expect(exitCode).toBe(1);
    const lines = stdout.trimEnd().split('\n');
    expect(lines.map((line) => line.split(': ').slice(0, 2).join(': '))).toEqual([
      `${keep}: equal`,
      `${wrong}: differs at step 3`,
      `${missing}: The trace ${missing} can't be opened`,
      `${fanOut}: equal`,
      `${cut}: equal`,
    ]);
    const many = await runCli(['replay', ...Array.from({ length: 12 }, () => [keep, fanOut]).flat()]);
    expect([many.exitCode, many.stderr.replaceAll(/.*was recorded by another core.*\n/g, '')]).toEqual([
      0,
      '',
    ]);
  });

  it('bisects two traces', async () => {
    const { exitCode, stdout } = await runCli(['replay', '--bisect', fanOut, wrong]);
    expect(exitCode).toBe(1);
    expect(stdout).toMatch(
      /They part at step 3, after 2 steps and 1 command that are equal\.\n {2}field {5}digest\n {2}A {9}0x/,
    );
    const equal = await runCli(['replay', '--bisect', fanOut, fanOut, '--json']);
    expect([equal.exitCode, equal.lines]).toMatchObject([0, [{ equal: true, steps: 6, commands: 1 }]]);
    const commands = await runCli(['replay', '--bisect', fanOut, keep]);
    expect(commands.stdout).toMatch(
      /They part after step 0.*\n {2}request 1\n {2}field {5}command 1\.requests\[0\]\./s,
    );
  });

  it('refuses what makes no sense, with a sentence', async () => {
    for (const [parameters, sentence] of [
      [['--execute', fanOut], /--execute needs --model DIR/],
      [['--model', 'models/arithmetic', fanOut], /--model is for --execute/],
      [['--bisect', fanOut], /--bisect compares two traces, and 1 are given/],
      [['--until', '3', fanOut, keep], /give it one trace/],
      [['--until', '0', fanOut], /must be a step's number/],
      [[new URL(import.meta.url).pathname], /is no trace of Kadenz/],
    ] as const) {
      const { exitCode, stderr } = await runCli(['replay', ...parameters]);
      expect([exitCode, stderr]).toEqual([1, expect.stringMatching(sentence)]);
    }
  });

  it('ends cleanly on an interrupt, with what was done so far', async () => {
    const path = await longTrace();
    const many = await runCli(['replay', '--workers', '1', fanOut, path], {
      onOutput: (child) => child.kill('SIGINT'),
    });
    expect(many.exitCode).toBe(130);
    expect(many.stdout.trimEnd().split('\n').length).toBe(1);
    expect(many.stderr).toMatch(/kadenz: interrupted: 1 of 2 traces have been replayed\./);
  });
});
