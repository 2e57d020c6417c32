// Replays many traces, each in a thread of its own, as many at once as there are processors.

import { setMaxListeners } from 'node:events';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Piscina } from 'piscina';
import type { ReplayOutcome } from './replay_worker.js';

export interface ReplayPoolOptions {
  /** Threads. Default: one for each processor that this process may use. */
  numThreads?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** One outcome for each path, in the order of the paths, each as soon as those before it are there. Ends early when the signal fires. */
export async function* replayTraces(
  paths: readonly string[],
  { numThreads = availableParallelism(), signal }: ReplayPoolOptions = {},
): AsyncGenerator<ReplayOutcome, void> {
  if (paths.length === 0) return;
  const pool = new Piscina({
    filename: fileURLToPath(new URL('./replay_worker.js', import.meta.url)),
    minThreads: 0,
    maxThreads: Math.min(numThreads, paths.length),
    recordTiming: false,
  });
  const stop = new AbortController();
  setMaxListeners(0, stop.signal); // every task listens
  const isStopped = () => signal?.aborted ?? false;
  const onAbort = () => stop.abort();
  signal?.addEventListener('abort', onAbort);
  try {
    const tasks = paths.map((path): Promise<ReplayOutcome> => pool.run(path, { signal: stop.signal }));
    for (const task of tasks) task.catch(() => {}); // Whoever waits for it below is told.
    for (const task of tasks) {
      if (isStopped()) return;
      try {
        yield await task;
      } catch (error) {
        if (!isStopped()) throw error;
        return;
      }
    }
  } finally {
    signal?.removeEventListener('abort', onAbort);
    stop.abort();
    await pool.destroy();
  }
}
