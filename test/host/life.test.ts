// Memory states, control instructions, and the life of a host from options to close.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { describe, expect, it } from 'vitest';
import { decodeResult } from '../../src/core/results.js';
import { MemoryTags, Work } from '../../src/generated/index.js';
import type { Host } from '../../src/host/host.js';
import { loadModel } from '../../src/model/index.js';
import { LIMITS, promptOf, TestHosts } from './hosts.js';
import {
  emptyWorkBytes,
  parallelGroupsBytes,
  releaseBytes,
  resumeBytes,
  runStep,
  stepBytes,
} from './instructions.js';
import { generate, range } from './sequences.js';

const hosts = new TestHosts();
const prompt = promptOf(37, 5);
const blocks = range(6);

describe('memory', () => {
  it('of KV cache and weights is released and resumed, with steps refused in between and the same bits after', () => {
    const host = hosts.start();
    const sequence = { prompt, numTokens: 8, blocks };
    const expected = generate(host, [sequence]);
    const { weightBytes, kvBytes } = host.info;
    expect(weightBytes).toBeGreaterThan(0);
    expect(kvBytes).toBeGreaterThanOrEqual(96 * 16 * 2 * 2 * 8 * 2 * 4);
    for (const tags of [MemoryTags.kv_cache, MemoryTags.weights, MemoryTags.kv_cache | MemoryTags.weights]) {
      host.submit(releaseBytes(50, tags));
      expect(decodeResult(host.collect())).toMatchObject({ step: 50, code: 'none', message: '' });
      expect(host.info.kvBytes).toBe(tags & MemoryTags.kv_cache ? 0 : kvBytes);
      expect(host.info.weightBytes).toBe(tags & MemoryTags.weights ? 0 : weightBytes);
      const refused = runStep(host, 51, { open: [{ slot: 0, promptTokens: 1 }] });
      expect(refused.code).toBe('memory_released');
      host.submit(resumeBytes(52, tags));
      expect(decodeResult(host.collect()).code).toBe('none');
      expect(host.info).toMatchObject({ weightBytes, kvBytes });
      expect(generate(host, [sequence])).toEqual(expected);
    }
  });

  it('keeps the KV cache while weights alone are released', () => {
    const host = hosts.start();
    const { tokenIds } = hosts.alone('llama', { prompt, numTokens: 2, blocks, params: { temperature: 0 } });
    const first = runStep(host, 1, {
      open: [{ slot: 0, promptTokens: prompt.length, params: { temperature: 0 } }],
      table: range(3).map((i) => [0, i, i]),
      sequences: [{ slot: 0, start: 0, tokens: prompt }],
      samples: [[prompt.length - 1, 0]],
    });
    for (const bytes of [releaseBytes(2, MemoryTags.weights), resumeBytes(3, MemoryTags.weights)]) {
      host.submit(bytes);
      expect(decodeResult(host.collect()).code).toBe('none');
    }
    const second = runStep(host, 4, {
      sequences: [{ slot: 0, start: prompt.length, tokens: [Number(first.tokenIds[0])] }],
      samples: [[0, 0]],
    });
    expect([...first.tokenIds, ...second.tokenIds]).toEqual(tokenIds);
  });

  it('that was not released is not resumed', () => {
    const host = hosts.start();
    host.submit(resumeBytes(1, MemoryTags.weights));
    expect(decodeResult(host.collect()).code).toBe('memory_not_released');
  });
});

describe('other instructions', () => {
  const answer = (host: Host, bytes: Uint8Array) => {
    host.submit(bytes);
    return decodeResult(host.collect());
  };

  it('for weight updates and a single rank are accepted, adapters and more ranks refused', () => {
    const host = hosts.start();
    expect(answer(host, emptyWorkBytes(1, Work.BeginWeightUpdate))).toMatchObject({ step: 1, code: 'none' });
    expect(answer(host, emptyWorkBytes(2, Work.FinishWeightUpdate))).toMatchObject({ step: 2, code: 'none' });
    expect(answer(host, parallelGroupsBytes(3, 1)).code).toBe('none');
    expect(answer(host, parallelGroupsBytes(4, 2))).toMatchObject({
      code: 'unsupported',
      message: /must be 1/,
    });
    expect(answer(host, emptyWorkBytes(5, Work.LoadAdapter))).toMatchObject({
      code: 'unsupported',
      message: /adapters/,
    });
  });

  it('after a shutdown are refused', () => {
    const host = hosts.start();
    expect(answer(host, emptyWorkBytes(1, Work.Shutdown)).code).toBe('none');
    expect(answer(host, stepBytes(2, {})).code).toBe('shut_down');
  });
});

describe('a host', () => {
  it('is closed as often as one likes, with instructions under way, and then refuses calls', () => {
    const host = hosts.start();
    for (const step of [1, 2, 3]) host.submit(stepBytes(step, {}));
    host.close();
    host.close();
    expect(() => host.submit(stepBytes(4, {}))).toThrow(
      expect.objectContaining({ name: 'KadenzError', code: 'host_closed' }),
    );
    expect(() => host.collect()).toThrow(
      expect.objectContaining({ name: 'KadenzError', code: 'host_closed' }),
    );
    expect(() => host.info).toThrow(expect.objectContaining({ name: 'KadenzError', code: 'host_closed' }));
  });

  it('has nothing to collect before something was submitted, and takes only so much', () => {
    const host = hosts.start();
    expect(() => host.collect()).toThrow(
      expect.objectContaining({ name: 'KadenzError', code: 'nothing_submitted' }),
    );
    const submitMany = () => {
      for (let step = 1; step < 100; step += 1) host.submit(stepBytes(step, {}));
    };
    expect(submitMany).toThrow(
      expect.objectContaining({ name: 'KadenzError', code: 'too_many_steps_in_flight' }),
    );
  });

  it('is refused with impossible sizes, by name', () => {
    for (const [options, sentence] of [
      [{ numBlocks: 0 }, /numBlocks is 0/],
      [{ blockSize: 24 }, /blockSize is 24/],
      [{ maxNumSeqs: 1e6 }, /maxNumSeqs is 1000000/],
      [{ maxModelLen: 0 }, /maxModelLen is 0/],
      [{ maxNumBatchedTokens: 2 ** 31 }, /maxNumBatchedTokens/],
    ] as const) {
      expect(() => hosts.start('llama', options)).toThrow(sentence);
    }
    expect(() => hosts.start('llama', { dtype: 'float64' as 'float32' })).toThrow(/dtype must be one of/);
  });

  it('whose weights changed since they were looked at is refused', () => {
    const { directory } = hosts.write('shrunk', { seed: 6 });
    const model = loadModel(directory);
    writeFileSync(
      join(directory, 'model.safetensors'),
      readFileSync(join(directory, 'model.safetensors')).subarray(0, 5000),
    );
    expect(() => hosts.start('llama', { model })).toThrow(
      expect.objectContaining({ name: 'KadenzError', code: 'file_truncated' }),
    );
  });

  it('ends with its worker, though nobody closed it and a step is under way', async () => {
    const source = `
      const { parentPort, workerData } = require('node:worker_threads');
      const { NativeHost } = require(workerData.addon);
      globalThis.host = new NativeHost(workerData.options);
      for (let i = 0; i < 20; i += 1) globalThis.host.submit(workerData.bytes);
      parentPort.postMessage('submitted');
      setInterval(() => {}, 1000);`;
    const { config, tensors, files } = loadModel(join(hosts.folder, 'llama'));
    const options = {
      ...LIMITS,
      config,
      files,
      dtype: 'float32',
      numThreads: 2,
      tensors: tensors.map((t) => ({ ...t, dtype: 'float32' })),
    };
    const bytes = stepBytes(1, {
      open: range(30).map((slot) => ({ slot, promptTokens: 16 })),
      table: range(30).map((slot) => [slot, 0, slot]),
      sequences: range(30).map((slot) => ({ slot, start: 0, tokens: range(16) })),
      samples: range(30).map((slot) => [slot * 16 + 15, slot]),
    });
    for (let round = 0; round < 3; round += 1) {
      const addon = join(import.meta.dirname, '../../build/native/Release/kadenz.node');
      const worker = new Worker(source, { eval: true, workerData: { addon, options, bytes } });
      await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
      expect(await worker.terminate()).toBe(1);
    }
  });
});
