// A trainer gets the GPU's memory back between rollouts, and generation after that is generation before, bit for bit.

import { execFileSync } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { decodeResult } from '../../src/core/results.js';
import { MemoryTags } from '../../src/generated/index.js';
import type { Host } from '../../src/host/host.js';
import { openHost } from '../../src/host/native_host.js';
import { loadModel } from '../../src/model/index.js';
import { releaseBytes, resumeBytes, runStep } from '../host/instructions.js';
import { generate, range, type SequenceFields } from '../host/sequences.js';
import { randomModel, shapesToTest } from './random_model.js';

const GIB = 1024 ** 3;
const BOTH: MemoryTags = MemoryTags.kv_cache | MemoryTags.weights;

/** Of the first GPU, in bytes. */
function gpuMemory(field: 'memory.used' | 'memory.total'): number {
  const query = [`--query-gpu=${field}`, '--format=csv,noheader,nounits'];
  const text = execFileSync('nvidia-smi', query, { encoding: 'utf8' });
  return Number(text.split('\n')[0]) * 1024 ** 2;
}

const sequences: SequenceFields[] = range(12).map((index) => ({
  prompt: range(20 + 31 * index).map((k) => 7 + ((k * 6151 + index * 977) % 30_000)),
  numTokens: 12,
  slot: index,
  blocks: range(64, 1 + index * 64),
  params: { seed: BigInt(index + 1), temperature: index % 3 === 0 ? 0 : 1 },
}));

describe.each(shapesToTest(['qwen2.5-1.5b', 'qwen3-8b']))('a random %s', (shape) => {
  let host: Host;
  let before: ReturnType<typeof generate>;
  let step = 1000;
  const nextStep = () => {
    step += 1;
    return step;
  };

  const control = (bytes: Uint8Array) => {
    host.submit(bytes);
    return decodeResult(host.collect());
  };

  beforeAll(() => {
    host = openHost({
      model: loadModel(randomModel(shape)),
      dtype: 'bfloat16',
      numBlocks: 0,
      blockSize: 16,
      maxNumSeqs: 64,
      maxModelLen: 2048,
      maxNumBatchedTokens: 8192,
      numThreads: 1,
      cuda: {
        deviceIndex: 0,
        gpuMemoryUtilization: 0.9,
        mostBlocks: 1 << 24,
        cudaGraphs: true,
        unrestrictedMatmul: false,
      },
    });
    before = generate(host, sequences);
  });
  afterAll(() => host.close());

  it('fills the share of the memory that was asked for', () => {
    const total = gpuMemory('memory.total');
    expect(host.info.kvBytes).toBeGreaterThan(total * 0.9 - host.info.weightBytes - 6 * GIB);
    expect(gpuMemory('memory.used')).toBeLessThan(total * 0.92);
  });

  it.each([
    ['KV cache and weights', BOTH],
    ['the KV cache alone', MemoryTags.kv_cache],
    ['the weights alone', MemoryTags.weights],
  ])('generates the same bits after %s were released and resumed', (_, tags) => {
    expect(control(releaseBytes(nextStep(), tags)).code).toBe('none');
    const refused = runStep(host, nextStep(), {
      open: [{ slot: 0, promptTokens: 1 }],
      table: [[0, 0, 1]],
      sequences: [{ slot: 0, start: 0, tokens: [5] }],
      samples: [[0, 0]],
    });
    expect(refused.code).toBe('memory_released');
    expect(control(resumeBytes(nextStep(), tags)).code).toBe('none');
    expect(generate(host, sequences, nextStep())).toEqual(before);
  });

  it('keeps at most 1.0 GiB of the GPU while KV cache and weights are released', () => {
    expect(control(releaseBytes(nextStep(), BOTH)).code).toBe('none');
    expect(gpuMemory('memory.used')).toBeLessThanOrEqual(1.0 * GIB);
    expect(control(resumeBytes(nextStep(), BOTH)).code).toBe('none');
  });
});
