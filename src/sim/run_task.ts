// One run as a task: simulate, and say what it saw or what did not hold. A run that fails is reproduced with its
// trace recorded; a run costs nothing for recording otherwise, but for the few that cut a trace.

import { checkCutTrace } from './checkers/cut_trace.js';
import { type CheckerName, CheckFailed } from './failure.js';
import { Random, Stream } from './random.js';
import { Recording } from './recording.js';
import type { RunReport } from './run_report.js';
import { Simulation, type SimulationOptions } from './simulation.js';

export interface RunTask extends Omit<SimulationOptions, 'wrap'> {
  kadenzVersion: string;
}

export interface RunFailure {
  checker: CheckerName;
  sentence: string;
  /** Instructions that had been committed. */
  step: number;
}

export type RunOutcome = { seed: bigint } & ({ report: RunReport } | { failure: RunFailure });

/** @param recording takes the run's trace; without one, only a run that cuts its trace is recorded */
export async function runOnce(task: RunTask, recording: Recording | null = null): Promise<RunOutcome> {
  const { seed, kadenzVersion, ...options } = task;
  let isRecorded = recording;
  const simulation = new Simulation({
    ...options,
    seed,
    wrap: (core, first, clock) => isRecorded?.wrap(core, first, clock) ?? core,
  });
  try {
    if (simulation.swarm.cutsTrace) isRecorded ??= await Recording.create(kadenzVersion);
    const report = await simulation.run();
    isRecorded?.end(simulation.digest);
    if (simulation.swarm.cutsTrace) {
      await checkCutTrace(isRecorded!, new Random(seed, Stream.trace), task.wasm);
      report.faults.trace_cut = 1;
    }
    return { seed, report };
  } catch (error) {
    if (!(error instanceof CheckFailed)) throw error;
    isRecorded?.end(simulation.digest);
    const { checker, message: sentence } = error;
    return { seed, failure: { checker, sentence, step: simulation.numCommitted } };
  }
}

/** The trace of a run, as far as it goes. The same task gives the same bytes. */
export async function recordOnce(task: RunTask): Promise<{ outcome: RunOutcome; recording: Recording }> {
  const recording = await Recording.create(task.kadenzVersion);
  return { outcome: await runOnce(task, recording), recording };
}
