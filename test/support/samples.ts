// What a run came to, for comparing two runs: every token, every log-prob by its bits, every end.
import type { GenerateResult } from '../../dist/index.js';

export function samplesOf(results: readonly GenerateResult[]) {
  return results.map(({ samples, error }) => ({
    error,
    samples: samples.map(({ tokenIds, logprobs, finishReason }) => ({
      finishReason,
      tokenIds: Array.from(tokenIds),
      bits: Array.from(new Uint32Array(logprobs!.slice().buffer)),
    })),
  }));
}
