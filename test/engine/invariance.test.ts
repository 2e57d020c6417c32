// A sample depends on its request alone: on a real host, bit for bit.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Engine, type EngineOptions, type GenerateRequest, type GenerateResult } from '../../dist/index.js';
import { writeTinyModel } from '../support/tiny_model.js';

let model = '';

beforeAll(async () => {
  model = await mkdtemp(join(tmpdir(), 'kadenz-invariance-'));
  await writeTinyModel(model, { architecture: 'Qwen3ForCausalLM', seed: 11 });
});

afterAll(() => rm(model, { recursive: true }));

async function withEngine<T>(
  options: Partial<EngineOptions>,
  body: (engine: Engine) => Promise<T>,
): Promise<T> {
  const engine = await Engine.create({
    model,
    maxModelLen: 256,
    kvCacheBlocks: 2048,
    numThreads: 1,
    ...options,
  });
  try {
    return await body(engine);
  } finally {
    await engine.close();
  }
}

/** Token ids from a fixed sequence, different for each `salt`. */
const promptOf = (length: number, salt: number) =>
  Array.from({ length }, (_, k) => (k * 7 + salt * 13 + ((k * k) % 11)) % 60);

const subject: GenerateRequest = {
  promptTokenIds: promptOf(100, 1),
  n: 3,
  seed: 42n,
  maxTokens: 40,
  ignoreEos: true,
  temperature: 0.9,
  topK: 20,
  topP: 0.95,
  repetitionPenalty: 1.1,
  frequencyPenalty: 0.2,
  logprobs: 3,
};

/** Tokens and the bits of everything that was computed for them. */
function bitsOf({ samples }: GenerateResult) {
  const bits = (floats: Float32Array) =>
    Array.from(new Uint32Array(floats.buffer, floats.byteOffset, floats.length));
  return samples.map(({ tokenIds, logprobs, topLogprobs }) => ({
    tokenIds: Array.from(tokenIds),
    logprobs: bits(logprobs!),
    topTokenIds: Array.from(topLogprobs!.tokenIds),
    topLogprobs: bits(topLogprobs!.logprobs),
    ranks: Array.from(topLogprobs!.ranks),
  }));
}

const crowd = (count: number): GenerateRequest[] =>
  Array.from({ length: count }, (_, index) => ({
    promptTokenIds: promptOf(5 + ((index * 17) % 90), index + 2),
    maxTokens: 10 + ((index * 7) % 50),
    ignoreEos: true,
    seed: index,
  }));

describe('the samples of a request are the same, bit for bit', () => {
  let alone: ReturnType<typeof bitsOf>;

  beforeAll(async () => {
    alone = await withEngine({}, async (engine) => bitsOf(await engine.generate(subject)));
  });

  it('and there is something to compare: three different samples of 40 tokens', () => {
    expect(alone.map(({ tokenIds }) => tokenIds.length)).toEqual([40, 40, 40]);
    expect(new Set(alone.map(({ tokenIds }) => tokenIds.join())).size).toBe(3);
    expect(new Set(alone[0]!.tokenIds).size).toBeGreaterThan(5);
  });

  it('among 64 other requests', async () => {
    await withEngine({}, async (engine) => {
      const others = crowd(64);
      const results = await engine.generate([...others.slice(0, 40), subject, ...others.slice(40)]);
      expect(bitsOf(results[40]!)).toEqual(alone);
    });
  });

  it.each([16, 64, 512])('with prompts computed in chunks of %i tokens', async (maxNumBatchedTokens) => {
    await withEngine({ maxNumBatchedTokens, maxNumSeqs: 8 }, async (engine) => {
      const results = await engine.generate([...crowd(6), subject]);
      expect(bitsOf(results[6]!)).toEqual(alone);
    });
  });

  it('with its prompt capped at 10 tokens a step', async () => {
    await withEngine({ longPrefillTokenThreshold: 10 }, async (engine) => {
      expect(bitsOf(await engine.generate(subject))).toEqual(alone);
    });
  });

  it('preempted in a pool that is too small for all', async () => {
    await withEngine({ kvCacheBlocks: 30 }, async (engine) => {
      const results = await engine.generate([...crowd(8), subject, ...crowd(8)]);
      expect((await engine.stats()).numPreemptions).toBeGreaterThan(0);
      expect(bitsOf(results[8]!)).toEqual(alone);
    });
  });

  it('preempted itself', async () => {
    await withEngine({ kvCacheBlocks: 30 }, async (engine) => {
      const results = await engine.generate([
        ...crowd(8).map((request) => ({ ...request, priority: -1 })),
        subject,
      ]);
      const preemptions = results[8]!.samples.map(({ numPreemptions }) => numPreemptions);
      expect(Math.max(...preemptions)).toBeGreaterThan(0);
      expect(bitsOf(results[8]!)).toEqual(alone);
    });
  });

  it('served from the prefix cache', async () => {
    await withEngine({}, async (engine) => {
      const first = await engine.generate(subject);
      const second = await engine.generate(subject);
      expect([first.cachedTokens, second.cachedTokens]).toEqual([0, 96]);
      expect(bitsOf(second)).toEqual(alone);
    });
  });

  it('with no prefix cache, other block sizes and more threads', async () => {
    const variants = [{ enablePrefixCaching: false }, { blockSize: 32 }, { blockSize: 8 }, { numThreads: 2 }];
    for (const options of variants) {
      await withEngine(options, async (engine) => {
        expect(bitsOf(await engine.generate(subject)), JSON.stringify(options)).toEqual(alone);
      });
    }
  });

  it('frozen, retracted and resumed on the way', async () => {
    await withEngine({}, async (engine) => {
      const call = engine.generate(subject);
      for (const mode of ['keep', 'retract'] as const) {
        await engine.pause(mode);
        await engine.resume();
      }
      expect(bitsOf(await call)).toEqual(alone);
    });
  });

  it('read as a stream', async () => {
    await withEngine({}, async (engine) => {
      const tokens: number[][] = [[], [], []];
      for await (const { sample, tokenIds } of engine.stream(subject)) tokens[sample]!.push(...tokenIds);
      expect(tokens).toEqual(alone.map(({ tokenIds }) => tokenIds));
    });
  });
});

describe('score gives the log-probs that generate gave, bit for bit', () => {
  it.each([
    ['float32', { dtype: 'float32' }],
    ['bfloat16', { dtype: 'bfloat16' }],
    ['chunks of 16', { maxNumBatchedTokens: 16, maxNumSeqs: 8 }],
  ] as const)('%s', async (_, options) => {
    await withEngine(options, async (engine) => {
      const requests = crowd(12).map((request) => ({ ...request, promptLogprobs: 0 }));
      const results = await engine.generate(requests);
      const sequences = results.map(({ promptTokenIds, samples }) =>
        Int32Array.of(...promptTokenIds, ...samples[0]!.tokenIds),
      );
      const scores = await engine.score(sequences);
      for (const [index, { promptLogprobs, samples }] of results.entries()) {
        const given = Float32Array.of(...promptLogprobs!, ...samples[0]!.logprobs!);
        expect(new Uint32Array(scores[index]!.buffer).slice(1)).toEqual(
          new Uint32Array(given.buffer).slice(1),
        );
      }
    });
  });
});
