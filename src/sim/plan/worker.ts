// The one task of a plan's worker threads: some replicas of one case, by the real core or by the fast model. What goes wrong is an answer
// of its own, since a rejected task would lose an error's code.

import { KadenzError, type KadenzErrorCode, type KadenzErrorDetails } from '../../errors.js';
import { fastReplica } from './fast.js';
import { type ReplicaResult, simulateReplica } from './replica.js';
import type { PlanCase } from './workload.js';

export interface PlanTask {
  plan: PlanCase;
  by: 'core' | 'fast';
  replicas: readonly number[];
}

export type PlanAnswer =
  | { results: ReplicaResult[] }
  | { code: KadenzErrorCode; message: string; details: KadenzErrorDetails };

export default async function runTask({ plan, by, replicas }: PlanTask): Promise<PlanAnswer> {
  try {
    const results: ReplicaResult[] = [];
    for (const replica of replicas) {
      results.push(by === 'core' ? await simulateReplica(plan, replica) : fastReplica(plan, replica));
    }
    return { results };
  } catch (error) {
    if (!(error instanceof KadenzError)) throw error;
    return { code: error.code, message: error.message, details: error.details };
  }
}
