// The Stats table: what can be counted, for logs, metrics and tests.
import { CoreState, Pause } from './core_state';
import { Stats } from './wire/generated/output';

/** Writes the Stats behind the output buffer's start and gives its address; its size goes to `c.messageBytes`. */
export function writeStats(c: CoreState, buffer: usize): usize {
  const stats = Stats.start_root(buffer);
  Stats.set_step(stats, c.step);
  Stats.set_num_steps_in_flight(stats, c.numStepsInFlight);
  Stats.set_num_running(stats, c.numRunning);
  Stats.set_num_waiting(stats, numWaiting(c));
  Stats.set_num_requests(stats, c.numLive);
  Stats.set_num_blocks(stats, c.numBlocks);
  Stats.set_num_free_blocks(stats, c.numFreeBlocks);
  Stats.set_num_cached_blocks(stats, c.numCachedBlocks);
  Stats.set_num_held_blocks(stats, c.numBlocks - c.numFreeBlocks - c.numCachedBlocks);
  Stats.set_num_preemptions(stats, c.numPreemptions);
  Stats.set_prompt_tokens(stats, c.promptTokens);
  Stats.set_cached_prompt_tokens(stats, c.cachedPromptTokens);
  Stats.set_computed_tokens(stats, c.computedTokens);
  Stats.set_generation_tokens(stats, c.generationTokens);
  Stats.set_finished_samples(stats, c.finishedSamples);
  Stats.set_weight_version(stats, c.weightVersion);
  Stats.set_paused(stats, c.pause == Pause.paused);
  Stats.set_updating_weights(stats, c.updatingWeights);
  Stats.set_weights_usable(stats, c.weightsUsable);
  Stats.set_released(stats, c.released);
  Stats.set_shut_down(stats, c.shutDown);
  Stats.set_token_heap_bytes(stats, c.heapBytes);
  Stats.set_token_heap_used_bytes(stats, c.heapUsedBytes);
  Stats.set_digest(stats, c.digest);
  c.messageBytes = <u32>(Stats.end_of(stats) - buffer);
  return buffer;
}

/** Samples not started, and preempted sequences. Entries of the queue that are requests count by their samples. */
function numWaiting(c: CoreState): u32 {
  return c.numUnstarted + c.numPreempted;
}
