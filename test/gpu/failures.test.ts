// What goes wrong on a GPU is told with a code and a sentence, and stays with whom it concerns.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Engine, type EngineOptions } from '../../dist/index.js';
import { writeTinyModel } from '../support/tiny_model.js';

let folder = '';
const path = (name: string) => join(folder, name);

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kadenz-gpu-'));
  writeTinyModel(path('plain'), { dtype: 'BF16', seed: 4 });
});
afterAll(() => rmSync(folder, { recursive: true }));

const start = (options: Partial<EngineOptions> = {}) =>
  Engine.create({ model: path('plain'), device: 'cuda', maxNumSeqs: 8, kvCacheBlocks: 64, ...options });

/** Overwrites one row of a stored bfloat16 matrix with NaN. */
function poisonRow(directory: string, name: string, row: number): void {
  const file = join(directory, 'model.safetensors');
  const bytes = readFileSync(file);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes));
  const { shape, data_offsets: offsets, dtype } = header[name];
  expect(dtype).toBe('BF16');
  const begin = 8 + headerBytes + offsets[0] + row * shape[1] * 2;
  for (let i = 0; i < shape[1]; i += 1) bytes.writeUInt16LE(0x7fc0, begin + 2 * i);
  writeFileSync(file, bytes);
}

describe('a start', () => {
  it('that has too little memory says how much was asked for, how much is free, and what to lower', async () => {
    const failure = await start({ kvCacheBlocks: 2 ** 24, blockSize: 64 }).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code: 'out_of_memory' });
    expect((failure as Error).message).toMatch(
      /KV cache: [\d.]+ \w+ asked for, [\d.]+ GiB of 1\d\d\.\d+ GiB free.*--kv-cache-blocks/,
    );
  });

  it('whose share of the memory holds no block says which share to raise', async () => {
    const options = { gpuMemoryUtilization: 0.001 };
    const failure = await Engine.create({ model: path('plain'), device: 'cuda', ...options }).catch((e) => e);
    expect(failure).toMatchObject({ code: 'out_of_memory' });
    expect((failure as Error).message).toContain('--gpu-memory-utilization');
  });

  it('on a GPU that is not there says how many there are', async () => {
    await expect(start({ device: 'cuda:63' })).rejects.toMatchObject({
      code: 'cuda_unavailable',
      message: expect.stringMatching(/GPU 63 was asked for; there (is|are) \d/),
    });
  });

  it('in float32 is refused by name', async () => {
    await expect(start({ dtype: 'float32' })).rejects.toMatchObject({ code: 'unsupported_dtype' });
  });

  it('leaves the GPU usable for the next one', async () => {
    const engine = await start();
    const [result] = await engine.generate([{ promptTokenIds: [1, 2, 3], maxTokens: 4, ignoreEos: true }]);
    expect(result!.samples[0]!.tokenIds.length).toBe(4);
    await engine.close();
  });
});

describe('NaN logits', () => {
  it.each([true, false])('end their own request with a code, with graphs: %s', async (enableCudaGraphs) => {
    const directory = path(`nan-${enableCudaGraphs}`);
    writeTinyModel(directory, { dtype: 'BF16', seed: 4 });
    poisonRow(directory, 'model.embed_tokens.weight', 90);
    const [poisoned, clean] = await Promise.all([
      start({ model: directory, enableCudaGraphs }),
      start({ enableCudaGraphs }),
    ]);
    const good = {
      promptTokenIds: [5, 6, 7, 8],
      maxTokens: 30,
      ignoreEos: true,
      seed: 3,
      logitBias: { 90: -Infinity },
    };
    const bad = { promptTokenIds: [5, 90, 7], maxTokens: 30, ignoreEos: true, seed: 4 };
    const later = { promptTokenIds: [5, 6], maxTokens: 30, ignoreEos: true, seed: 5, logitBias: { 90: 100 } };
    const [one, two, three] = await poisoned.generate([good, bad, later]);
    expect(two!.error).toMatchObject({ code: 'nan_logits' });
    // Its first token is drawn in peace, and is the poisoned one; the second has no logits to be drawn from.
    expect(three!.error).toMatchObject({ code: 'nan_logits' });
    const [alone] = await clean.generate([good]);
    expect(Array.from(one!.samples[0]!.tokenIds)).toEqual(Array.from(alone!.samples[0]!.tokenIds));
    await Promise.all([poisoned.close(), clean.close()]);
  });
});
