// Native hosts on random tiny models, for the tests in this folder.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll } from 'vitest';
import type { Host } from '../../src/host/host.js';
import { type NativeHostOptions, openHost } from '../../src/host/native_host.js';
import { loadModel } from '../../src/model/index.js';
import { randomNumbers, writeTinyModel } from '../support/tiny_model.js';
import { type Generated, generate, range, type SequenceFields } from './sequences.js';

export const LIMITS = {
  numBlocks: 96,
  blockSize: 16,
  maxNumSeqs: 40,
  maxModelLen: 256,
  maxNumBatchedTokens: 512,
};
export const VOCAB_SIZE = 97;

/** Models in a temporary folder, and hosts that are closed after each test. To be called once in a test file. */
export class TestHosts {
  folder = '';
  readonly #open: Host[] = [];

  constructor() {
    beforeAll(() => {
      this.folder = mkdtempSync(join(tmpdir(), 'kadenz-host-'));
      this.write('llama', { seed: 1 });
      this.write('qwen3', { seed: 2, architecture: 'Qwen3ForCausalLM', dtype: 'BF16', headDim: 20 });
      this.write('mistral', { seed: 3, architecture: 'MistralForCausalLM', config: { sliding_window: 9 } });
    });
    afterEach(() => {
      for (const host of this.#open.splice(0)) host.close();
    });
    afterAll(() => rmSync(this.folder, { recursive: true }));
  }

  write(name: string, options: Parameters<typeof writeTinyModel>[1]): ReturnType<typeof writeTinyModel> {
    return writeTinyModel(join(this.folder, name), options);
  }

  start(model = 'llama', options: Partial<NativeHostOptions> = {}): Host {
    const loaded = options.model ?? loadModel(join(this.folder, model));
    const host = openHost({ ...LIMITS, dtype: 'float32', numThreads: 2, ...options, model: loaded });
    this.#open.push(host);
    return host;
  }

  /** What is generated alone, in one prefill, with one thread: what everything else is held against. */
  alone(model: string, fields: SequenceFields): Generated {
    return generate(this.start(model, { numThreads: 1 }), [fields])[0]!;
  }
}

export function promptOf(length: number, seed: number): number[] {
  const random = randomNumbers(seed);
  return range(length).map(() => Math.floor(random() * VOCAB_SIZE));
}
