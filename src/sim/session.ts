// A session of many runs: fanned out over threads, added up in the order of the runs, so that the outcome does not
// depend on how many threads there were. It ends with the first run that fails; which one that is does not depend on
// the threads either.

import { createHash } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Piscina } from 'piscina';
import { runSeed } from './random.js';
import type { RunReport } from './run_report.js';
import { type RunFailure, type RunOutcome, type RunTask, runOnce } from './run_task.js';
import type { RunBatch } from './run_worker.js';

export interface SessionOptions extends Omit<RunTask, 'seed'> {
  seed: bigint;
  runs: number;
  /** Threads. Default: one for each processor that this process may use. */
  workers?: number | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((numRuns: number) => void) | undefined;
}

export interface SessionReport {
  /** That have ended well. */
  runs: number;
  totals: Totals;
  /** Over all runs, in order. */
  digest: string;
  failure: (RunFailure & { seed: bigint; run: number }) | null;
  wasInterrupted: boolean;
}

export type Totals = Omit<RunReport, 'digest'>;

const MOST_RUNS_A_BATCH = 8;

export async function runSession(options: SessionOptions): Promise<SessionReport> {
  const { seed, runs, workers = availableParallelism(), signal, onProgress, ...task } = options;
  const sum = new Sum();
  if (runs === 1) {
    sum.add(await runOnce({ ...task, seed }));
    return sum.report(false);
  }
  const size = Math.max(1, Math.min(MOST_RUNS_A_BATCH, Math.ceil(runs / (4 * workers))));
  const pool = new Piscina({
    filename: fileURLToPath(new URL('./run_worker.js', import.meta.url)),
    minThreads: 0,
    maxThreads: Math.min(workers, Math.ceil(runs / size)),
    // A thread takes its next batch when it is done with one.
    concurrentTasksPerWorker: 1,
    recordTiming: false,
  });
  try {
    const under = new Map<number, Promise<RunOutcome[]>>();
    let next = 0;
    let isOver = false;
    const start = () => {
      if (isOver || signal?.aborted === true || next >= runs) return;
      const first = next;
      next = Math.min(runs, first + size);
      const seeds = Array.from({ length: next - first }, (_, i) => runSeed(seed, first + i));
      const batch: RunBatch = { ...task, seeds };
      const running: Promise<RunOutcome[]> = pool.run(batch);
      running.catch(() => {}); // Whoever waits for it below is told; after a failure nobody does.
      under.set(first, running);
    };
    for (let i = 0; i < 2 * workers; i++) start();
    for (let first = 0; under.has(first); first += size) {
      const outcomes = await under.get(first)!;
      under.delete(first);
      for (const outcome of outcomes) sum.add(outcome);
      if (sum.failure !== null) {
        isOver = true;
        break;
      }
      onProgress?.(sum.runs);
      start();
    }
    return sum.report(signal?.aborted === true && sum.runs < runs);
  } finally {
    await pool.destroy();
  }
}

class Sum {
  runs = 0;
  failure: SessionReport['failure'] = null;
  readonly #hash = createHash('sha256');
  readonly #totals: Totals = {
    steps: 0,
    tokens: 0,
    requests: 0,
    endings: { stop: 0, length: 0, abort: 0, error: 0, refused: 0 },
    faults: {},
    preemptions: 0,
    promptTokens: 0,
    cachedPromptTokens: 0,
    virtualUs: 0,
  };

  add(outcome: RunOutcome): void {
    if (this.failure !== null) return;
    if ('failure' in outcome) {
      this.failure = { ...outcome.failure, seed: outcome.seed, run: this.runs };
      return;
    }
    const { report } = outcome;
    this.runs += 1;
    this.#hash.update(`${outcome.seed} ${report.digest}\n`);
    const totals = this.#totals;
    for (const name of [
      'steps',
      'tokens',
      'requests',
      'preemptions',
      'promptTokens',
      'cachedPromptTokens',
      'virtualUs',
    ] as const)
      totals[name] += report[name];
    addCounts(totals.endings, report.endings);
    addCounts(totals.faults, report.faults);
  }

  report(wasInterrupted: boolean): SessionReport {
    const digest = this.#hash.digest('hex');
    return { runs: this.runs, totals: this.#totals, digest, failure: this.failure, wasInterrupted };
  }
}

function addCounts(to: Record<string, number>, from: Readonly<Record<string, number>>): void {
  for (const [name, count] of Object.entries(from)) to[name] = (to[name] ?? 0) + count;
}
