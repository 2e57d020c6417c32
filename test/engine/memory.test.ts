// Memory goes and comes back with requests running: none is lost, and each has the samples that it would have had.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Engine, type EngineOptions, type GenerateRequest } from '../../dist/index.js';
import { createEngine, ids, useFakeEngines } from '../support/fake_engine.js';
import { runCli } from '../support/run_cli.js';
import { samplesOf } from '../support/samples.js';
import { writeTinyModel } from '../support/tiny_model.js';

useFakeEngines();

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'kadenz-memory-'));
  await writeTinyModel(folder, { architecture: 'Qwen2ForCausalLM', seed: 5 });
});
afterAll(() => rm(folder, { recursive: true }));

const openEngine = (options: Partial<EngineOptions> = {}) =>
  Engine.create({
    ...{ model: folder, maxModelLen: 512, kvCacheBlocks: 4096, numThreads: 1, maxNumSeqs: 64 },
    ...options,
  });

/** 64 sequences, so long that they still run when the release arrives. */
const requests: GenerateRequest[] = Array.from({ length: 32 }, (_, index) => ({
  promptTokenIds: Array.from({ length: 5 + index }, (_, k) => (k * 7 + index * 13) % 60),
  n: 2,
  maxTokens: 300,
  ignoreEos: true,
  seed: index,
}));

/** Until some of them run and none has ended. */
async function untilRunning(engine: Engine): Promise<void> {
  for (;;) {
    const { generationTokens, numRequests } = await engine.stats();
    expect(numRequests).toBeLessThanOrEqual(requests.length);
    if (generationTokens > 300) return;
  }
}

describe('released memory', () => {
  it.each([
    ['KV cache and weights', undefined],
    ['the KV cache', ['kv_cache'] as const],
    ['the weights', ['weights'] as const],
  ])('(%s) comes back, and 64 samples under way end with the bits of a run without it', async (_, tags) => {
    const record = join(folder, `${tags?.join() ?? 'both'}.kdz`);
    const engine = await openEngine({ record });
    const undisturbed = samplesOf(await engine.generate(requests));
    const before = await engine.stats();
    const running = engine.generate(requests);
    for (;;) {
      const { generationTokens } = await engine.stats();
      if (generationTokens - before.generationTokens > 300) break;
    }
    await engine.memory.release({ tags });
    const released = await engine.stats();
    expect(released.released.toSorted()).toEqual([...(tags ?? ['kv_cache', 'weights'])]);
    expect(released.numRequests).toBe(requests.length);
    if (tags?.[0] !== 'weights') expect(released.numHeldBlocks).toBe(0);
    await engine.memory.resume({ tags });
    expect((await engine.stats()).released).toEqual([]);
    expect(samplesOf(await running)).toEqual(undisturbed);
    await engine.close();
    const replay = await runCli(['replay', record]);
    expect(replay.stderr + replay.stdout).toContain('equal');
    expect(replay.exitCode).toBe(0);
  });

  it('can be taken in two parts and given in two', async () => {
    const engine = await openEngine();
    const undisturbed = samplesOf(await engine.generate(requests));
    const running = engine.generate(requests);
    await untilRunning(engine);
    await engine.memory.release({ tags: ['kv_cache'] });
    await engine.memory.release({ tags: ['weights'] });
    await engine.memory.resume({ tags: ['weights'] });
    expect((await engine.stats()).released).toEqual(['kv_cache']);
    await engine.memory.resume();
    expect(samplesOf(await running)).toEqual(undisturbed);
    await engine.close();
  });
});

describe('while memory is released', () => {
  const request = { promptTokenIds: [1, 2, 3], maxTokens: 4, ignoreEos: true, seed: 3 };

  it('a request is refused with memory_released, and the next one after resume is not', async () => {
    const engine = await createEngine();
    const [before] = await engine.generate([request]);
    await engine.memory.release();
    await expect(engine.generate(request)).rejects.toMatchObject({ code: 'memory_released' });
    await engine.memory.resume();
    expect(ids(await engine.generate(request))).toEqual(ids(before!));
  });

  it('and generation is paused, requests queue', async () => {
    const engine = await createEngine();
    await engine.pause('keep');
    await engine.memory.release();
    const queued = engine.generate(request);
    await engine.memory.resume();
    await engine.resume();
    expect((await queued).samples[0]!.finishReason).toBe('length');
  });

  it('requests that waited in the engine for a place wait on, and all end well', async () => {
    const engine = await createEngine({
      maxNumRequests: 2,
      maxNumSeqs: 2,
      maxModelLen: 4_096,
      kvCacheBlocks: 1_024,
    });
    const long = { ...request, maxTokens: 2_000 };
    const calls = Array.from({ length: 6 }, (_, id) => engine.generate({ ...long, id }));
    while ((await engine.stats()).generationTokens === 0);
    await engine.memory.release();
    // Places become free in the core while nothing may come into it.
    engine.abort([0, 1]);
    await Promise.all(calls.slice(0, 2));
    await expect.poll(async () => (await engine.stats()).numQueued).toBe(4);
    engine.abort([5]);
    expect((await calls[5]!).samples[0]!.finishReason).toBe('abort');
    expect((await engine.stats()).numQueued).toBe(3);
    await engine.memory.resume();
    const ends = (await Promise.all(calls.slice(2, 5))).map(({ samples }) => samples[0]!);
    expect(ends.map(({ finishReason, tokenIds }) => [finishReason, tokenIds.length])).toEqual(
      new Array(3).fill(['length', 2_000]),
    );
  });

  it('everything ends with reason abort where that was asked for, what waited for a place too', async () => {
    const engine = await createEngine({
      maxNumRequests: 2,
      maxNumSeqs: 2,
      maxModelLen: 4_096,
      kvCacheBlocks: 1_024,
    });
    const calls = Array.from({ length: 6 }, () => engine.generate({ ...request, maxTokens: 4_000 }));
    await engine.memory.release({ abortRunning: true });
    const reasons = (await Promise.all(calls)).map(({ samples }) => samples[0]!.finishReason);
    expect(reasons).toEqual(new Array(6).fill('abort'));
    await engine.memory.resume();
    expect((await engine.generate(request)).samples[0]!.finishReason).toBe('length');
  });

  it('close ends requests that wait for it with engine_closed', async () => {
    const engine = await createEngine({
      maxNumRequests: 1,
      maxNumSeqs: 1,
      maxModelLen: 4_096,
      kvCacheBlocks: 1_024,
    });
    const calls = Array.from({ length: 3 }, (_, id) =>
      engine.generate([{ ...request, id, maxTokens: 4_000 }]),
    );
    await engine.memory.release();
    engine.abort(0);
    await calls[0];
    await engine.close();
    const codes = await Promise.all(calls.slice(1).map(async (call) => (await call)[0]!.error?.code));
    expect(codes).toEqual(['engine_closed', 'engine_closed']);
  });
});

describe('a resume that the device has no memory for', () => {
  it('ends with out_of_memory, leaves all released, and may be asked for again until it succeeds', async () => {
    const engine = await createEngine({ maxModelLen: 4_096, kvCacheBlocks: 1_024 }, '?failResumes=2');
    const request = { promptTokenIds: [1, 2, 3], maxTokens: 2_000, ignoreEos: true, seed: 3 };
    const undisturbed = ids(await engine.generate(request));
    const running = engine.generate(request);
    await engine.memory.release();
    for (let attempt = 0; attempt < 2; attempt += 1) {
      await expect(engine.memory.resume()).rejects.toMatchObject({
        code: 'out_of_memory',
        message: expect.stringContaining('too little free memory'),
      });
      expect((await engine.stats()).released.toSorted()).toEqual(['kv_cache', 'weights']);
      await expect(engine.generate(request)).rejects.toMatchObject({ code: 'memory_released' });
    }
    await engine.memory.resume();
    expect(ids(await running)).toEqual(undisturbed);
  });
});

describe('what does not fit is refused with a code', () => {
  it('tags that are none, memory that is released already, memory that is not', async () => {
    const engine = await createEngine();
    for (const tags of [[], ['kv'], 'weights', [1]]) {
      await expect(engine.memory.release({ tags: tags as never })).rejects.toMatchObject({
        code: 'invalid_argument',
        message: expect.stringContaining("'kv_cache' and 'weights'"),
      });
    }
    await expect(engine.memory.resume()).rejects.toMatchObject({ code: 'memory_not_released' });
    await engine.memory.release({ tags: ['weights'] });
    await expect(engine.memory.release()).rejects.toMatchObject({ code: 'memory_released' });
    await expect(engine.memory.resume({ tags: ['kv_cache'] })).rejects.toMatchObject({
      code: 'memory_not_released',
    });
    await engine.memory.resume();
  });
});
