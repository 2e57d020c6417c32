import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { decodeConfigure } from '../../dist/core/index.js';
import type { EngineOptions, StartProgress } from '../../dist/index.js';
import { TraceReader } from '../../dist/trace/index.js';
import { checkEngineOptions, resolveEngineOptions } from '../../src/engine/options.js';
import { loadModel } from '../../src/model/index.js';
import { createEngine, useFakeEngines } from '../support/fake_engine.js';
import { writeTinyModel } from '../support/tiny_model.js';

useFakeEngines();

const folder = mkdtempSync(join(tmpdir(), 'kadenz-device-'));
afterAll(() => rmSync(folder, { recursive: true }));

function modelOf(dtype: 'F32' | 'F16' | 'BF16') {
  return loadModel(writeTinyModel(join(folder, dtype), { dtype, headDim: 20 }).directory);
}

function setupOf(options: Partial<EngineOptions>, dtype: 'F32' | 'F16' | 'BF16' = 'BF16') {
  const whole = { model: join(folder, dtype), ...options };
  checkEngineOptions(whole);
  return resolveEngineOptions(whole, modelOf(dtype));
}

/** Neither kvCacheBlocks nor maxModelLen, which createEngine gives by itself. */
const HOST_CHOOSES = { kvCacheBlocks: undefined, maxModelLen: undefined } as never as Partial<EngineOptions>;

describe('options of device cuda', () => {
  it('leave the size of the KV pool to the host unless blocks or bytes are given', () => {
    const left = setupOf({ device: 'cuda', maxModelLen: 100, maxNumSeqs: 3 });
    expect(left.coreConfig.numBlocks).toBe(0);
    expect(left.hostOptions.numBlocks).toBe(0);
    expect(left.hostOptions.cuda, '3 sequences of 7 blocks').toMatchObject({ mostBlocks: 21 });
    const given = setupOf({ device: 'cuda', kvCacheBlocks: 9 });
    expect([given.coreConfig.numBlocks, given.hostOptions.numBlocks]).toEqual([9, 9]);
  });

  it('count a head of 20 numbers as 64 in the KV cache of a GPU, as 20 on the CPU', () => {
    // 2 layers x key and value x 2 heads x 16 tokens, 2 bytes each
    const bytesOfBlock = (headDim: number) => 2 * 2 * 2 * 16 * headDim * 2;
    const numBlocks = (device: 'cpu' | 'cuda', kvCacheBytes: number) =>
      setupOf({ device, kvCacheBytes }).coreConfig.numBlocks;
    expect(numBlocks('cuda', 5 * bytesOfBlock(64))).toBe(5);
    expect(numBlocks('cuda', 5 * bytesOfBlock(64) - 1)).toBe(4);
    expect(numBlocks('cpu', 5 * bytesOfBlock(20))).toBe(5);
  });

  it.each([
    ['cuda', 'F16', 'float16'],
    ['cuda', 'BF16', 'bfloat16'],
    ['cuda', 'F32', 'bfloat16'],
    ['cpu', 'F16', 'float32'],
    ['cpu', 'BF16', 'bfloat16'],
    ['cpu', 'F32', 'float32'],
  ] as const)('take, on %s for a checkpoint in %s, %s by themselves', (device, stored, dtype) => {
    expect(setupOf({ device }, stored).hostOptions.dtype).toBe(dtype);
  });

  it('reach the host, each under its name', () => {
    const given = { gpuMemoryUtilization: 0.5, enableCudaGraphs: false, unrestrictedMatmul: true };
    expect(setupOf({ device: 'cuda:3', ...given }).hostOptions.cuda).toMatchObject({
      ...{ deviceIndex: 3, gpuMemoryUtilization: 0.5, cudaGraphs: false, unrestrictedMatmul: true },
    });
    expect(setupOf({ device: 'cuda' }).hostOptions.cuda).toMatchObject({
      ...{ deviceIndex: 0, gpuMemoryUtilization: 0.9, cudaGraphs: true, unrestrictedMatmul: false },
    });
    expect(setupOf({}).hostOptions.cuda).toBeNull();
  });

  it('compute 8192 tokens a step, where the CPU takes 2048', () => {
    expect(setupOf({ device: 'cuda' }).coreConfig.maxNumBatchedTokens).toBe(8192);
    expect(setupOf({}).coreConfig.maxNumBatchedTokens).toBe(2048);
  });

  it.each([
    [{ device: 'gpu' }, 'unsupported_device', "device is 'gpu'; it must be 'cpu', 'cuda'"],
    [{ device: 'cuda:' }, 'unsupported_device', "device is 'cuda:'"],
    [{ device: 'cuda:-1' }, 'unsupported_device', "device is 'cuda:-1'"],
    [{ device: 1 }, 'unsupported_device', "device is '1'"],
    [
      { dtype: 'float16' },
      'unsupported_dtype',
      "device 'cpu' holds weights and KV cache in 'float32' or 'bfloat16'",
    ],
    [
      { device: 'cuda', dtype: 'float32' },
      'unsupported_dtype',
      "device 'cuda' holds weights and KV cache in 'bfloat16' or 'float16'",
    ],
    [{ device: 'cuda', gpuMemoryUtilization: 0 }, 'invalid_argument', 'gpuMemoryUtilization is 0'],
    [{ device: 'cuda', gpuMemoryUtilization: 1.1 }, 'invalid_argument', 'at most 1'],
    [{ device: 'cuda', gpuMemoryUtilization: Number.NaN }, 'invalid_argument', 'gpuMemoryUtilization is NaN'],
    [{ device: 'cuda', gpuMemoryUtilization: '0.9' }, 'invalid_argument', 'gpuMemoryUtilization is 0.9'],
    [
      { device: 'cuda', enableCudaGraphs: 1 },
      'invalid_argument',
      'enableCudaGraphs is 1; it must be true or false',
    ],
    [
      { device: 'cuda', unrestrictedMatmul: true, record: 'run.kdz' },
      'invalid_argument',
      'it is not recorded',
    ],
    [{ gpuMemoryUtilization: 0.9 }, 'invalid_argument', "gpuMemoryUtilization is for device 'cuda'"],
    [{ enableCudaGraphs: false }, 'invalid_argument', "enableCudaGraphs is for device 'cuda'"],
    [{ unrestrictedMatmul: true }, 'invalid_argument', "unrestrictedMatmul is for device 'cuda'"],
  ])('refuse %o with a code and a sentence', (options, code, words) => {
    expect(() => setupOf(options as never)).toThrowError(
      expect.objectContaining({ code, message: expect.stringContaining(words) }),
    );
  });
});

describe('an engine whose host sizes the KV pool', () => {
  it('schedules with as many blocks as the host has, lowers maxModelLen to them, and records both', async () => {
    const record = join(folder, 'run.kdz');
    const engine = await createEngine({ device: 'cuda', ...HOST_CHOOSES, record }, '?numBlocks=7');
    expect(engine.info).toMatchObject({ kvCacheBlocks: 7, maxModelLen: 112 });
    expect((await engine.stats()).numBlocks).toBe(7);
    await expect(engine.generate({ promptTokenIds: new Array(112).fill(1) })).rejects.toMatchObject({
      code: 'prompt_too_long',
    });
    const { samples } = await engine.generate({ promptTokenIds: [1, 2], maxTokens: 110, ignoreEos: true });
    expect(samples[0]!.tokenIds).toHaveLength(110);
    await engine.close();
    const reader = await TraceReader.open(record);
    expect(decodeConfigure(reader.header.configure)).toMatchObject({ numBlocks: 7, maxModelLen: 112 });
    reader.close();
  });

  it('keeps a maxModelLen that was asked for', async () => {
    const engine = await createEngine({ device: 'cuda', ...HOST_CHOOSES, maxModelLen: 500 }, '?numBlocks=7');
    expect(engine.info).toMatchObject({ kvCacheBlocks: 7, maxModelLen: 500 });
  });

  it('keeps the blocks that were asked for', async () => {
    const engine = await createEngine({ device: 'cuda', kvCacheBlocks: 9 }, '?numBlocks=7');
    expect(engine.info).toMatchObject({ kvCacheBlocks: 9 });
  });

  it('does not start when the host does not say how many it has', async () => {
    await expect(createEngine({ device: 'cuda', ...HOST_CHOOSES })).rejects.toMatchObject({
      code: 'worker_died',
      message: expect.stringContaining('says that it has undefined blocks'),
    });
  });
});

describe('the progress of a start', () => {
  it('is told in order, from the first report of a stage to its last, a hundredth at a time', async () => {
    const told: StartProgress[] = [];
    await createEngine({ onProgress: (progress) => told.push(progress) }, '?progress=500');
    const weights = told.filter(({ stage }) => stage === 'weights');
    expect(weights).toEqual(
      Array.from({ length: 101 }, (_, k) => ({ stage: 'weights', done: k * 5000, total: 500_000 })),
    );
    expect(told.slice(101)).toEqual([0, 1, 2, 3].map((done) => ({ stage: 'graphs', done, total: 3 })));
  });
});
