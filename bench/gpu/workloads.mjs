// What bench:gpu and test:gpu ask for: requests of random token ids, equal for equal seeds.

import { uniformInt } from 'pure-rand/distribution/uniformInt';
import { xoroshiro128plus } from 'pure-rand/generator/xoroshiro128plus';

/** Plain words only, so that no special token of a real vocabulary is met. */
const MOST_TOKEN_ID = 50_000;

export function randomTokens(random, count, vocabSize) {
  const tokens = new Array(count);
  for (let i = 0; i < count; i += 1)
    tokens[i] = uniformInt(random, 3, Math.min(vocabSize, MOST_TOKEN_ID) - 1);
  return tokens;
}

/** `requests` prompts of `promptTokens`, each sampled `n` times to exactly `outputTokens`. */
export function fixedLengths({
  requests,
  n = 1,
  promptTokens,
  outputTokens,
  vocabSize,
  seed = 1,
  logprobs = 0,
}) {
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

/** `kind`: 'fixed' or 'log-normal', and the fields of the function that makes it. */
export function makeRequests({ kind, ...fields }) {
  return kind === 'log-normal' ? logNormalLengths(fields) : fixedLengths(fields);
}

/**
 * All at once. `tailShare`: of the time, what was left when nine tenths of the requests had ended. With `promptsFirst` each prompt is computed
 * by a request of one token before those that share it come, so that they find it in the prefix cache; its time counts, its token doesn't.
 */
export async function runRequests(engine, requests, { promptsFirst = false } = {}) {
  const begin = performance.now();
  if (promptsFirst) {
    const firsts = new Map(requests.map((request) => [request.promptTokenIds, { ...request, maxTokens: 1 }]));
    await Promise.all([...firsts.values()].map((request) => engine.generate(request)));
  }
  const ends = [];
  let tokens = 0;
  await Promise.all(
    requests.map(async (request) => {
      const { samples } = await engine.generate(request);
      for (const sample of samples) {
        if (sample.error !== undefined) throw sample.error;
        tokens += sample.tokenIds.length;
      }
      ends.push(performance.now() - begin);
    }),
  );
  const milliseconds = ends.at(-1);
  const tailShare = 1 - ends[Math.ceil(0.9 * ends.length) - 1] / milliseconds;
  return { tokens, seconds: milliseconds / 1000, tailShare };
}
