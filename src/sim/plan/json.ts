// A plan as JSON, for programs: snake_case, units last.

import type { CaseResult } from './case.js';
import type { PlanOptions } from './options.js';

export function planJson({ dtype }: PlanOptions, results: readonly CaseResult[]): string {
  const { plan } = results[0]!;
  const { device, model } = plan;
  return JSON.stringify({
    device: device.name,
    device_source: device.source,
    efficiency: device.efficiency,
    dtype,
    num_parameters: model.numParameters,
    weight_bytes: model.weightBytes,
    kv_bytes_per_token: model.kvBytesPerToken,
    seed: plan.seed,
    group_placement: plan.placement,
    cases: results.map(caseJson),
  });
}

function caseJson(result: CaseResult) {
  const { plan, replicas, fastModel, broadcast } = result;
  const { scheduler } = plan;
  return {
    case: plan.name,
    prompts: plan.prompts,
    n: plan.n,
    started_n: plan.startedN,
    replicas: plan.replicas,
    kv_blocks: scheduler.numBlocks,
    block_size: scheduler.blockSize,
    max_num_seqs: scheduler.maxNumSeqs,
    max_num_batched_tokens: scheduler.maxNumBatchedTokens,
    time_us: result.timeUs,
    tail_us: result.tailUs,
    tail_share: result.tailUs / result.timeUs,
    below_half_batch_share: result.belowHalfShare,
    tokens: result.tokens,
    dropped_tokens: result.droppedTokens,
    tokens_per_second: result.tokensPerSecond,
    steps: result.steps,
    preemptions: result.preemptions,
    prefix_hit_share: result.prefixHitShare,
    peak_batch: result.peakBatch,
    peak_kv_share: result.peakKvShare,
    mean_kv_share: result.meanKvShare,
    replica_p50_us: replicas.p50Us,
    replica_p90_us: replicas.p90Us,
    replica_max_us: replicas.maxUs,
    slowest_replica: replicas.slowest,
    replicas_with_work: replicas.withWork,
    idle_share: replicas.idleShare,
    weight_update_us: broadcast.timeUs,
    weight_update_way: broadcast.way,
    fast_model: fastModel && {
      simulated_replicas: fastModel.simulated,
      factor: fastModel.factor,
      mean_error: fastModel.meanError,
      largest_error: fastModel.largestError,
    },
  };
}
