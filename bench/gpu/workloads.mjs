// What bench:gpu and test:gpu ask for: requests of random token ids, equal for equal seeds.

import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';
import { uniformInt } from 'pure-rand/distribution/uniformInt';

/** Plain words only, so that no special token of a real vocabulary is met. */
const MOST_TOKEN_ID = 50_000;

export function randomTokens(random, count, vocabSize) {
  const tokens = new Array(count);
  for (let i = 0; i < count; i += 1) tokens[i] = uniformInt(random, 3, Math.min(vocabSize, MOST_TOKEN_ID) - 1);
  return tokens;
}

/** `requests` prompts of `promptTokens`, each sampled `n` times to exactly `outputTokens`. */
export function fixedLengths({ requests, n = 1, promptTokens, outputTokens, vocabSize, seed = 1, logprobs = 0 }) {
  const random = xoroshiro128plus(seed);
  return Array.from({ length: requests }, (_, index) => ({
    promptTokenIds: randomTokens(random, promptTokens, vocabSize),
    n,
    maxTokens: outputTokens,
    ignoreEos: true,
    temperature: 1,
    logprobs,
    seed: seed * 100_000 + index,
  }));
}

/** GRPO: each of `n` samples of a prompt has its own length, log-normal; so each is a request of its own with the same prompt. */
export function logNormalLengths({ prompts, n, promptTokens, median, sigma, most, vocabSize, seed = 1 }) {
  const random = xoroshiro128plus(seed);
  const uniform = () => (uniformInt(random, 1, 2 ** 31 - 1) + 0.5) / 2 ** 31;
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  const requests = [];
  for (let prompt = 0; prompt < prompts; prompt += 1) {
    const promptTokenIds = randomTokens(random, promptTokens, vocabSize);
    for (let sample = 0; sample < n; sample += 1) {
      const length = Math.round(median * Math.exp(sigma * normal()));
      requests.push({
        promptTokenIds,
        maxTokens: Math.max(1, Math.min(most, length)),
        ignoreEos: true,
        temperature: 1,
        logprobs: 0,
        seed: seed * 100_000 + requests.length,
      });
    }
  }
  return requests;
}
