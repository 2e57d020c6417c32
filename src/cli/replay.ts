// kadenz replay: does a recorded run give the same again? Its plans by the core alone, or its tokens on a host.

import { SingleBar } from 'cli-progress';
import { type Command, InvalidArgumentError } from 'commander';
import { type Device, KadenzError, replayExecution, type StartProgress } from '../index.js';
import {
  bisectTraces,
  type ReplayOutcome,
  type ReplayReport,
  replayTrace,
  replayTraces,
} from '../trace/index.js';
import { stateInWords } from './core_state.js';
import { numberFlag, withoutUndefined } from './flags.js';
import { watchInterrupts } from './interrupts.js';
import {
  bisectionAsJson,
  bisectionInWords,
  outcomeAsJson,
  outcomeInOneLine,
  outcomeInWords,
  warningsOf,
} from './replay_text.js';
import { StartView } from './start_view.js';

interface ReplayFlags {
  execute?: boolean;
  model?: string;
  device?: Device;
  threads?: number;
  until?: number | 'end';
  bisect?: boolean;
  json?: boolean;
  workers?: number;
}

const EXAMPLES = `
Without --execute every instruction of the run is made again by the scheduler's core and compared with the recorded one: no model and no
host are needed. With --execute each one is also executed again, and token ids and log-prob bits are compared.

The exit code is 0 when all is equal, 1 at a difference or a damaged trace, 130 when interrupted. A trace that was cut short (its run was
killed, or goes on) is replayed as far as it goes; standard error says where it ends.

Examples:
  kadenz replay run.kdz
  kadenz replay run.kdz --execute --model models/arithmetic
  kadenz replay run.kdz --until 120
  kadenz replay --bisect monday.kdz tuesday.kdz
  kadenz replay traces/*.kdz
`;

export function addReplayCommand(program: Command, finish: (exitCode: number) => void): void {
  program
    .command('replay')
    .description('replay recorded runs and compare')
    .argument('<traces...>', 'files that --record wrote; several are replayed side by side')
    .option('--execute', 'execute again on a host, and compare token ids and log-prob bits')
    .option('--model <dir>', 'with --execute: the model directory of the run')
    .option(
      '--device <name>',
      'with --execute: where to compute, as cpu or cuda:1 (default: where the run was recorded)',
    )
    .option('--threads <n>', 'with --execute: threads to compute with (default: all processors)', numberFlag)
    .option(
      '--until <step>',
      'stop when this step is committed (or at the end) and print the state',
      untilFlag,
    )
    .option('--bisect', 'of two traces of the same commands: find the first step at which they part')
    .option('--workers <n>', 'traces replayed at once (default: all processors)', numberFlag)
    .option('--json', 'print JSON lines')
    .addHelpText('after', EXAMPLES)
    .action(async (paths: string[], flags: ReplayFlags) => finish(await replay(paths, flags)));
}

function untilFlag(text: string): number | 'end' {
  if (text === 'end') return 'end';
  const step = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(step) || step < 1)
    throw new InvalidArgumentError("It must be a step's number, from 1, or end.");
  return step;
}

async function replay(paths: string[], flags: ReplayFlags): Promise<number> {
  checkFlags(paths, flags);
  const stop = new AbortController();
  const interrupts = watchInterrupts(stop);
  try {
    const run = { flags, signal: stop.signal };
    const exitCode = flags.bisect
      ? await bisect([paths[0]!, paths[1]!], run)
      : paths.length === 1
        ? await replayOne(paths[0]!, run)
        : await replayMany(paths, run);
    return interrupts.exitCode() ?? exitCode;
  } finally {
    interrupts.unwatch();
  }
}

function checkFlags(paths: string[], { execute, model, until, bisect, workers }: ReplayFlags): void {
  const refuse = (sentence: string) => {
    throw new KadenzError('invalid_argument', sentence);
  };
  if (bisect && paths.length !== 2) refuse(`--bisect compares two traces, and ${paths.length} are given.`);
  if (bisect && (execute || until !== undefined))
    refuse('--bisect compares two recordings; give it without --execute and --until.');
  if (execute && model === undefined)
    refuse('--execute needs --model DIR, the model that the run was recorded with.');
  if (model !== undefined && !execute) refuse('--model is for --execute; a replay of plans needs no model.');
  if (until !== undefined && paths.length !== 1)
    refuse('--until prints the state of one run; give it one trace.');
  if (workers !== undefined && !(Number.isInteger(workers) && workers >= 1))
    refuse(`--workers is ${workers}; it must be a whole number from 1.`);
}

interface Run {
  flags: ReplayFlags;
  signal: AbortSignal;
}

async function replayOne(path: string, run: Run): Promise<number> {
  const { flags } = run;
  // With --execute the bars of the host's start come first, one at a time.
  const start = new StartView(null);
  let bar: SingleBar | null = null;
  let report: ReplayReport;
  try {
    report = await reportOf(path, run, {
      onStart: (progress) => start.show(progress),
      onProgress: (numSteps) => {
        start.end();
        bar ??= startBar('{value} steps replayed', null);
        bar?.update(numSteps);
      },
    });
  } finally {
    start.end();
    stopBar(bar);
  }
  requireReached(report, flags.until);
  print(flags.json ? JSON.stringify(outcomeAsJson(report)) : outcomeInWords(report));
  if (report.state !== null && !flags.json) print(stateInWords(report.state));
  warn(warningsOf(report));
  return isEqual(report) ? 0 : 1;
}

interface Listeners {
  onStart?(progress: StartProgress): void;
  onProgress?(numSteps: number): void;
}

function reportOf(path: string, { flags, signal }: Run, { onStart, onProgress }: Listeners = {}) {
  const { execute, model, device, threads, until } = flags;
  if (!execute) return replayTrace(path, { until, signal, onProgress });
  return replayExecution(path, {
    model: model!,
    ...withoutUndefined({ device, numThreads: threads, onStart }),
    until,
    signal,
    onProgress,
    onWarning: (sentence) => warn([sentence]),
  });
}

async function replayMany(paths: string[], run: Run): Promise<number> {
  const { flags, signal } = run;
  const bar = startBar('{bar} {value}/{total} traces replayed', paths.length);
  const outcomes = flags.execute
    ? executeInTurn(paths, run)
    : replayTraces(paths, { numThreads: flags.workers, signal });
  let exitCode = 0;
  let numDone = 0;
  const warnings: string[] = [];
  try {
    for await (const outcome of outcomes) {
      print(flags.json ? JSON.stringify(outcomeAsJson(outcome)) : outcomeInOneLine(outcome));
      warnings.push(...warningsOf(outcome));
      if (!isEqual(outcome)) exitCode = 1;
      numDone += 1;
      bar?.update(numDone);
    }
  } finally {
    bar?.stop();
    if (signal.aborted)
      warnings.push(`interrupted: ${numDone} of ${paths.length} traces have been replayed.`);
    warn(warnings);
  }
  return exitCode;
}

/** One host at a time: each takes all processors. */
async function* executeInTurn(paths: string[], run: Run): AsyncGenerator<ReplayOutcome, void> {
  for (const path of paths) {
    if (run.signal.aborted) return;
    try {
      yield await reportOf(path, run);
    } catch (error) {
      if (!(error instanceof KadenzError)) throw error;
      yield { path, code: error.code, message: error.message };
    }
  }
}

async function bisect(paths: [string, string], { flags, signal }: Run): Promise<number> {
  const bar = startBar('{value} steps compared', null);
  try {
    const report = await bisectTraces(paths, { signal, onProgress: (numSteps) => bar?.update(numSteps) });
    bar?.stop();
    print(flags.json ? JSON.stringify(bisectionAsJson(report)) : bisectionInWords(report));
    const isDamaged = report.problems.some((problem) => problem?.kind === 'corrupt');
    report.problems.forEach((problem, i) => {
      if (problem !== null) warn([`${paths[i]}: ${problem.sentence}`]);
    });
    return report.difference !== null || isDamaged ? 1 : 0;
  } finally {
    bar?.stop();
  }
}

function isEqual(outcome: ReplayOutcome): boolean {
  return !('code' in outcome) && outcome.difference === null && outcome.ended !== 'corrupt';
}

function requireReached({ path, numSteps, ended }: ReplayReport, until: number | 'end' | undefined): void {
  if (typeof until !== 'number' || (ended !== 'end' && ended !== 'cut')) return;
  throw new KadenzError(
    'invalid_argument',
    `${path} has ${numSteps} steps, so it does not come to step ${until}. --until end gives the state at its end.`,
    { value: until, limit: numSteps },
  );
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

function warn(sentences: readonly string[]): void {
  for (const sentence of sentences) process.stderr.write(`kadenz: ${sentence}\n`);
}

/** A function of its own: the compiler takes a variable that only a callback sets for null. */
function stopBar(bar: SingleBar | null): void {
  bar?.stop();
}

function startBar(format: string, total: number | null): SingleBar | null {
  if (!process.stderr.isTTY) return null;
  const options = { format, barCompleteChar: '█', barIncompleteChar: '░', barsize: 30, hideCursor: true };
  const bar = new SingleBar({ ...options, clearOnComplete: true, stream: process.stderr });
  bar.start(total ?? 0, 0);
  return bar;
}
