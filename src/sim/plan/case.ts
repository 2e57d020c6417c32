// One case of a plan, over all its replicas: run, then summed up in a fixed order.
//
// Up to `simulateReplicas` of them run on the real core. With more, evenly spaced ones do, all run on the fast model, and every other
// one of those that ran on both calibrates it (one factor on its times); the rest of them, which the factor has not seen, say how far
// the fast model is off. Where the real core ran, its result is the one that counts.

import { type BroadcastPlan, planBroadcast, type WeightsLink } from './broadcast.js';
import type { PlanPool } from './pool.js';
import type { ReplicaResult } from './replica.js';
import type { SeriesPoint } from './series.js';
import type { PlanCase } from './workload.js';

export interface CaseOptions {
  simulateReplicas: number;
  weightsLink: WeightsLink;
  gpusPerMachine: number;
}

export interface CaseResult {
  plan: PlanCase;
  /** Until the last wanted sample of the slowest replica. */
  timeUs: number;
  /** After 90% of the wanted samples were done. */
  tailUs: number;
  /** Share of device time in steps of fewer than half of the replica's peak of sequences. */
  belowHalfShare: number;
  /** Output tokens of wanted samples, and of such as were started beyond them. */
  tokens: number;
  droppedTokens: number;
  tokensPerSecond: number;
  preemptions: number;
  prefixHitShare: number;
  steps: number;
  peakBatch: number;
  peakKvShare: number;
  meanKvShare: number;
  /** When replicas that had work were done. */
  replicas: {
    p50Us: number;
    p90Us: number;
    maxUs: number;
    slowest: number;
    withWork: number;
    idleShare: number;
  };
  /** null: the real core ran on every replica. */
  fastModel: FastModelCheck | null;
  broadcast: BroadcastPlan;
  /** Of the slowest replica that ran on the real core. */
  points: readonly SeriesPoint[];
  pointsReplica: number;
}

export interface FastModelCheck {
  simulated: number;
  /** What its times were multiplied by. */
  factor: number;
  /** On the replicas that the factor was not made from; null: there was none. */
  meanError: number | null;
  largestError: number | null;
}

const TAIL_SHARE = 0.9;

export async function runCase(plan: PlanCase, pool: PlanPool, options: CaseOptions): Promise<CaseResult> {
  const withWork = Math.min(
    plan.replicas,
    plan.placement === 'prefix' ? plan.prompts : plan.prompts * plan.startedN,
  );
  const simulated = Math.min(withWork, options.simulateReplicas);
  const chosen = Array.from({ length: simulated }, (_, i) => Math.floor((i * withWork) / simulated));
  const byCore = await pool.run({ plan, by: 'core', replicas: chosen });
  let results = byCore;
  let fastModel: FastModelCheck | null = null;
  if (simulated < withWork) {
    const everyReplica = Array.from({ length: withWork }, (_, replica) => replica);
    const byFast = await pool.run({ plan, by: 'fast', replicas: everyReplica });
    fastModel = checkFastModel(byCore, byFast);
    const { factor } = fastModel;
    results = byFast.map((result) => scaled(result, factor));
    for (const result of byCore) results[result.replica] = result;
  }
  return {
    ...summedUp(plan, results),
    fastModel,
    ...slowestPoints(byCore),
    broadcast: broadcastOf(plan, options),
  };
}

function broadcastOf(plan: PlanCase, { weightsLink, gpusPerMachine }: CaseOptions): BroadcastPlan {
  const { replicas, model } = plan;
  return planBroadcast(plan.device, weightsLink, {
    weightBytes: model.weightBytes,
    replicas,
    gpusPerMachine,
  });
}

function checkFastModel(byCore: readonly ReplicaResult[], byFast: readonly ReplicaResult[]): FastModelCheck {
  let coreUs = 0;
  let fastUs = 0;
  for (let i = 0; i < byCore.length; i += 2) {
    coreUs += byCore[i]!.timeUs;
    fastUs += byFast[byCore[i]!.replica]!.timeUs;
  }
  const factor = coreUs / fastUs;
  const errors: number[] = [];
  for (let i = 1; i < byCore.length; i += 2) {
    errors.push((byFast[byCore[i]!.replica]!.timeUs * factor) / byCore[i]!.timeUs - 1);
  }
  const isChecked = errors.length > 0;
  return {
    simulated: byCore.length,
    factor,
    meanError: isChecked ? sum(errors) / errors.length : null,
    largestError: isChecked ? errors.reduce((worst, error) => Math.max(worst, Math.abs(error)), 0) : null,
  };
}

function scaled(result: ReplicaResult, factor: number): ReplicaResult {
  return {
    ...result,
    timeUs: Math.round(result.timeUs * factor),
    finishUs: result.finishUs.map((us) => Math.round(us * factor)),
    kvShareUs: result.kvShareUs * factor,
    belowHalfUs: result.belowHalfUs * factor,
  };
}

function summedUp(plan: PlanCase, results: readonly ReplicaResult[]) {
  const total = (of: (result: ReplicaResult) => number) => sum(results.map(of));
  const most = (of: (result: ReplicaResult) => number) =>
    results.reduce((max, one) => Math.max(max, of(one)), 0);
  const finishes = sortedFinishes(results);
  const timeUs = finishes.at(-1) ?? 0;
  const doneAt = finishes[Math.ceil(TAIL_SHARE * finishes.length) - 1] ?? 0;
  const deviceUs = total((one) => one.timeUs);
  const tokens = total((one) => one.tokens);
  const promptTokens = total((one) => one.promptTokens);
  return {
    plan,
    timeUs,
    tailUs: timeUs - doneAt,
    belowHalfShare: total((one) => one.belowHalfUs) / deviceUs,
    tokens,
    droppedTokens: total((one) => one.droppedTokens),
    tokensPerSecond: (tokens / timeUs) * 1e6,
    preemptions: total((one) => one.preemptions),
    prefixHitShare: total((one) => one.cachedPromptTokens) / promptTokens,
    steps: total((one) => one.steps),
    peakBatch: most((one) => one.peakBatch),
    peakKvShare: most((one) => one.peakKvShare),
    meanKvShare: total((one) => one.kvShareUs) / deviceUs,
    replicas: spreadOf(plan, results, timeUs),
  };
}

function sortedFinishes(results: readonly ReplicaResult[]): Float64Array {
  const all = new Float64Array(results.reduce((count, { finishUs }) => count + finishUs.length, 0));
  let at = 0;
  for (const { finishUs } of results) {
    all.set(finishUs, at);
    at += finishUs.length;
  }
  return all.sort();
}

function spreadOf(plan: PlanCase, results: readonly ReplicaResult[], timeUs: number): CaseResult['replicas'] {
  const ends = results.map(({ finishUs }) => finishUs.at(-1) ?? 0);
  const sorted = Float64Array.from(ends).sort();
  const quantile = (share: number) => sorted[Math.ceil(share * sorted.length) - 1]!;
  return {
    p50Us: quantile(0.5),
    p90Us: quantile(0.9),
    maxUs: timeUs,
    slowest: results[ends.indexOf(timeUs)]!.replica,
    withWork: results.length,
    idleShare: 1 - sum(ends) / (timeUs * plan.replicas),
  };
}

function slowestPoints(byCore: readonly ReplicaResult[]) {
  const slowest = byCore.reduce((worst, one) => (one.timeUs > worst.timeUs ? one : worst));
  return { points: slowest.points, pointsReplica: slowest.replica };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
