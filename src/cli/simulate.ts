// kadenz simulate: many runs of the real core against a simulated host, with faults; or, with --plan, how long a
// rollout will take.

import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SingleBar } from 'cli-progress';
import { type Command, Option } from 'commander';
import { coreSha256 } from '../core/index.js';
import { KadenzError } from '../index.js';
import { addPlanFlags, runPlan } from '../sim/plan/command.js';
import { type RunTask, recordOnce } from '../sim/run_task.js';
import { runSession, type SessionReport } from '../sim/session.js';
import { summaryJson, summaryText } from '../sim/summary.js';
import { type FileRequest, parseWorkload } from '../sim/workloads/file_workload.js';
import { WORKLOADS, type WorkloadName } from '../sim/workloads/workload.js';
import { watchInterrupts } from './interrupts.js';

interface SimulateFlags {
  plan?: boolean;
  seed?: string;
  runs: string;
  steps: string;
  workload?: string;
  faults: 'none' | 'swarm';
  workers?: string;
  out: string;
  json?: boolean;
}

const MAX_SEED = 2n ** 64n - 1n;
const MAX_RUNS = 100_000_000;
const MAX_STEPS = 10_000_000;
const MAX_WORKERS = 1024;
const ROOT = fileURLToPath(new URL('../..', import.meta.url));

const EXAMPLES = `
A run is (seed, commit): the same two give the same calls on the core, byte for byte, on any machine. Each run draws its configuration, its
workload and its faults from its seed; after every call all books are checked, each token against an oracle. When something does
not hold, the run's own seed is printed and its trace written to DIR/kadenz-sim-SEED.kdz, and the exit code is 1.

A workload FILE has a JSON object a line: {"arrival_s", "prompt_tokens", "output_tokens", "n"?, "priority"?, "prefix_group"?}.

Examples:
  kadenz simulate --seed 1 --runs 2000
  kadenz simulate --seed 7 --runs 100 --workload rl --faults none
  kadenz simulate --plan --model-config config.json --prompts 512 --n 16 --lengths lognormal:1500,1.1,16384
`;

export function addSimulateCommand(program: Command, finish: (exitCode: number) => void): void {
  const command = program
    .command('simulate')
    .description('search for faults with simulated runs, or plan a rollout')
    .option('--seed <n>', 'where all randomness comes from')
    .option('--runs <n>', 'runs, each with a seed of its own; the first has --seed itself', '1')
    .option('--steps <n>', 'steps of a run before faults stop and everything must finish', '500')
    .option('--workload <name>', 'rl, chat, burst, or a JSONL file (default: each run draws one)')
    .addOption(new Option('--faults <which>', 'what goes wrong').choices(['none', 'swarm']).default('swarm'))
    .option('--workers <n>', 'threads (default: all processors)')
    .option('--out <dir>', 'where the trace of a run that fails is written', '.')
    .option('--json', 'print JSON instead of text');
  addPlanFlags(command);
  command
    .addHelpText('after', EXAMPLES)
    .action(async (flags: SimulateFlags & Record<string, unknown>) =>
      finish(flags.plan === true ? await runPlan(flags) : await simulate(flags)),
    );
}

function wholeNumber(text: string, flag: string, least: number, most: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  throw new KadenzError(
    'invalid_argument',
    `${flag} is ${text}; it must be a whole number from ${least} to ${most}.`,
    {
      value: text,
      limit: most,
    },
  );
}

function seedOf(text: string | undefined): bigint {
  if (text === undefined)
    throw new KadenzError(
      'invalid_argument',
      'Give --seed, such as --seed 1: a run is reproduced by its seed.',
    );
  if (/^\d{1,20}$/.test(text) && BigInt(text) <= MAX_SEED) return BigInt(text);
  throw new KadenzError(
    'invalid_argument',
    `--seed is ${text}; it must be a whole number from 0 to ${MAX_SEED}.`,
    {
      value: text,
      limit: MAX_SEED,
    },
  );
}

function workloadOf(name: string | undefined): WorkloadName | 'any' | FileRequest[] {
  if (name === undefined) return 'any';
  const known = WORKLOADS.find((workload) => workload === name);
  if (known !== undefined) return known;
  let text: string;
  try {
    text = readFileSync(name, 'utf8');
  } catch (cause) {
    throw new KadenzError(
      'invalid_argument',
      `--workload ${name} is none of ${WORKLOADS.join(', ')}, and no file that can be read: ${(cause as Error).message}.`,
      { value: name, cause },
    );
  }
  return parseWorkload(text, name);
}

async function simulate(flags: SimulateFlags): Promise<number> {
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
  const task: RunTask = {
    seed: seedOf(flags.seed),
    steps: wholeNumber(flags.steps, '--steps', 1, MAX_STEPS),
    workload: workloadOf(flags.workload),
    faults: flags.faults,
    kadenzVersion: version,
  };
  const runs = wholeNumber(flags.runs, '--runs', 1, MAX_RUNS);
  const workers =
    flags.workers === undefined ? undefined : wholeNumber(flags.workers, '--workers', 1, MAX_WORKERS);
  const stop = new AbortController();
  const interrupts = watchInterrupts(stop, 'finishing the runs that have begun');
  const bar = process.stderr.isTTY ? startBar(runs) : null;
  let report: SessionReport;
  try {
    const onProgress = (numRuns: number) => bar?.update(numRuns);
    report = await runSession({ ...task, runs, workers, signal: stop.signal, onProgress });
  } finally {
    bar?.stop();
    interrupts.unwatch();
  }
  if (report.failure !== null) return tellFailure(report.failure, { task, flags, version });
  process.stdout.write(flags.json === true ? `${summaryJson(report)}\n` : summaryText(report));
  return interrupts.exitCode() ?? 0;
}

interface Told {
  task: RunTask;
  flags: SimulateFlags;
  version: string;
}

/** The failed run once more, with its trace recorded. */
async function tellFailure(
  failure: NonNullable<SessionReport['failure']>,
  { task, flags, version }: Told,
): Promise<number> {
  const { seed, run, step, checker, sentence } = failure;
  const { outcome, recording } = await recordOnce({ ...task, seed });
  const path = resolve(flags.out, `kadenz-sim-${seed}.kdz`);
  mkdirSync(resolve(flags.out), { recursive: true });
  await recording.writeTo(path);
  const isSame =
    'failure' in outcome && outcome.failure.sentence === sentence && outcome.failure.step === step;
  const again = [
    `kadenz simulate --seed ${seed}`,
    flags.steps === '500' ? '' : `--steps ${flags.steps}`,
    flags.workload === undefined ? '' : `--workload ${flags.workload}`,
    flags.faults === 'swarm' ? '' : `--faults ${flags.faults}`,
  ];
  const told = {
    seed: String(seed),
    run,
    step,
    checker,
    sentence,
    commit: commitOf(version),
    core_sha256: await coreSha256(),
    trace: path,
    reproduced: isSame,
    again: again.filter((part) => part !== '').join(' '),
  };
  if (flags.json === true) {
    process.stdout.write(`${JSON.stringify({ failure: told })}\n`);
    return 1;
  }
  process.stdout.write(
    [
      `seed ${told.seed} fails after step ${step} (run ${run} of this session)`,
      `${checker}: ${sentence}`,
      '',
      `commit  ${told.commit}`,
      `core    ${told.core_sha256}`,
      `trace   ${path}`,
      `again   ${told.again}`,
      ...(isSame
        ? []
        : [
            'The run did not fail in the same way when it was repeated: something outside of the seed has a say.',
          ]),
      '',
    ].join('\n'),
  );
  return 1;
}

/** The commit that this code is of, where it lies in its own repository; else the version of the package. */
function commitOf(version: string): string {
  try {
    const git = (...args: string[]) =>
      execFileSync('git', ['-C', ROOT, ...args], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }).trim();
    if (resolve(git('rev-parse', '--show-toplevel')) === resolve(ROOT)) return git('rev-parse', 'HEAD');
  } catch {
    // No git here, or no repository: an installed package.
  }
  return `kadenz ${version}`;
}

function startBar(total: number): SingleBar {
  const bar = new SingleBar({
    format: '{bar} {value}/{total} runs | {eta_formatted} left',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 30,
    hideCursor: true,
    stream: process.stderr,
  });
  bar.start(total, 0);
  return bar;
}
