// A sample depends on its request alone on a GPU too: bit for bit, whatever the batch, with graphs and without, scored or sampled.

import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Engine, type EngineOptions, type GenerateRequest, type GenerateResult } from '../../dist/index.js';
import { randomModel, shapesToTest } from './random_model.js';

const NUM_REQUESTS = 256;

/** Prompts of 3 to 600 tokens, outputs of 8 to 39: every request ends at another time. */
const requests: GenerateRequest[] = Array.from({ length: NUM_REQUESTS }, (_, index) => {
  const length = index % 16 === 0 ? 600 - index : 3 + ((index * 37) % 120);
  return {
    promptTokenIds: Array.from({ length }, (_, k) => 5 + ((k * 7919 + index * 104729 + k * k * 31) % 40_000)),
    maxTokens: 8 + (index % 32),
    ignoreEos: true,
    seed: 1000 + index,
    temperature: index % 5 === 0 ? 0 : 1,
    logprobs: index % 7 === 0 ? 3 : 0,
    ...(index % 11 === 0 ? { topP: 0.9, topK: 50 } : {}),
    ...(index % 13 === 0 ? { repetitionPenalty: 1.2, presencePenalty: 0.3 } : {}),
  };
});

interface Outcome {
  tokenIds: Int32Array;
  logprobBits: Uint32Array;
}

const bits = (floats: Float32Array) => new Uint32Array(floats.buffer, floats.byteOffset, floats.length);

function outcomeOf({ samples, error }: GenerateResult): Outcome {
  if (error !== undefined) throw error;
  const { tokenIds, logprobs } = samples[0]!;
  return { tokenIds, logprobBits: bits(logprobs!) };
}

async function withEngine<T>(options: EngineOptions, body: (engine: Engine) => Promise<T>): Promise<T> {
  const engine = await Engine.create(options);
  try {
    return await body(engine);
  } finally {
    await engine.close();
  }
}

/** The first `count` requests, `batch` at once. */
async function inBatches(engine: Engine, count: number, batch: number): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (let first = 0; first < count; first += batch) {
    const results = await engine.generate(requests.slice(first, Math.min(count, first + batch)));
    outcomes.push(...results.map(outcomeOf));
  }
  return outcomes;
}

describe.each(shapesToTest(['qwen2.5-0.5b', 'qwen2.5-1.5b', 'qwen3-8b']))('a random %s', (shape) => {
  let options: EngineOptions;
  let together: Outcome[];
  let engine: Engine;

  beforeAll(async () => {
    options = {
      model: randomModel(shape),
      device: 'cuda',
      maxNumSeqs: NUM_REQUESTS,
      maxModelLen: 1024,
      kvCacheBlocks: 12_000,
      enablePrefixCaching: false,
    };
    engine = await Engine.create(options);
    together = await inBatches(engine, NUM_REQUESTS, NUM_REQUESTS);
  });
  afterAll(() => engine.close());

  it('gives many different tokens to compare', () => {
    const all = together.flatMap(({ tokenIds }) => Array.from(tokenIds));
    expect(all.length).toBe(requests.reduce((sum, { maxTokens }) => sum + maxTokens!, 0));
    expect(new Set(all).size).toBeGreaterThan(1000);
  });

  it.each([
    [1, 24],
    [2, 48],
    [7, 105],
    [64, 256],
    [256, 256],
  ])('gives the same bits in batches of %i', async (batch, count) => {
    expect(await inBatches(engine, count, batch)).toEqual(together.slice(0, count));
  });

  it.each([
    ['without CUDA graphs', { enableCudaGraphs: false }, 256],
    ['without CUDA graphs, seven at once', { enableCudaGraphs: false }, 7],
    ['with prompts computed 64 tokens at a time', { maxNumBatchedTokens: 64 }, 256],
    [
      'with blocks of 64 and few of them, so that sequences are preempted',
      { blockSize: 64, kvCacheBlocks: 200 },
      256,
    ],
  ] as const)('gives the same bits %s', async (_, change, batch) => {
    const count = batch === 7 ? 56 : 256;
    const outcomes = await withEngine({ ...options, ...change }, (other) => inBatches(other, count, batch));
    expect(outcomes).toEqual(together.slice(0, count));
  });

  it('gives the same bits when the prompt comes from the prefix cache', async () => {
    await withEngine({ ...options, enablePrefixCaching: true }, async (other) => {
      await inBatches(other, 64, 64);
      const again = await other.generate(requests.slice(0, 64));
      expect(again.reduce((sum, { cachedTokens }) => sum + cachedTokens, 0)).toBeGreaterThan(1000);
      expect(again.map(outcomeOf)).toEqual(together.slice(0, 64));
    });
  });

  it('scores a sequence with the bits that it was generated with', async () => {
    const picked = requests.map((_, index) => index).filter((index) => index % 3 === 0);
    const sequences = picked.map((index) => [
      ...Array.from(requests[index]!.promptTokenIds!),
      ...together[index]!.tokenIds,
    ]);
    const scores = await engine.score(sequences);
    picked.forEach((index, i) => {
      const scored = bits(scores[i]!).slice(-together[index]!.tokenIds.length);
      expect(scored).toEqual(together[index]!.logprobBits);
    });
  });
});
