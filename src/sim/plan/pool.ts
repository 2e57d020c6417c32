// Fans a plan's replicas out over threads. What comes back is in the order of the replicas, so it does not depend on how many threads
// there are or which was faster.

import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Piscina } from 'piscina';
import { KadenzError } from '../../errors.js';
import type { ReplicaResult } from './replica.js';
import type { PlanAnswer, PlanTask } from './worker.js';

/** So many replicas of the fast model are one task: they take a fraction of a millisecond each. */
const FAST_REPLICAS_PER_TASK = 64;

export class PlanPool {
  readonly #pool: Piscina;

  constructor(workers: number = availableParallelism()) {
    this.#pool = new Piscina({
      filename: fileURLToPath(new URL('./worker.js', import.meta.url)),
      minThreads: 0,
      maxThreads: workers,
      atomics: 'disabled',
      recordTiming: false,
    });
  }

  async run({ plan, by, replicas }: PlanTask): Promise<ReplicaResult[]> {
    const size = by === 'core' ? 1 : FAST_REPLICAS_PER_TASK;
    const answers: Promise<PlanAnswer>[] = [];
    for (let first = 0; first < replicas.length; first += size) {
      const task: PlanTask = { plan, by, replicas: replicas.slice(first, first + size) };
      answers.push(this.#pool.run(task));
    }
    return (await Promise.all(answers)).flatMap((answer) => {
      if ('results' in answer) return answer.results;
      throw new KadenzError(answer.code, answer.message, answer.details);
    });
  }

  async close(): Promise<void> {
    await this.#pool.destroy();
  }
}
