// Some runs in a row, in a thread of Piscina. Ends with the first that fails.

import { type RunOutcome, type RunTask, runOnce } from './run_task.js';

export interface RunBatch extends Omit<RunTask, 'seed'> {
  seeds: readonly bigint[];
}

export default async function runBatch({ seeds, ...task }: RunBatch): Promise<RunOutcome[]> {
  const outcomes: RunOutcome[] = [];
  for (const seed of seeds) {
    const outcome = await runOnce({ ...task, seed });
    outcomes.push(outcome);
    if ('failure' in outcome) break;
  }
  return outcomes;
}
