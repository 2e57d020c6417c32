// Engines on the fake host (fake_host.mjs), for tests of what goes on around a model. Each test file that uses them gets a tiny model of
// its own for the shape; engines are closed after the test that made them.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll } from 'vitest';
import { Engine, type EngineOptions } from '../../dist/index.js';
import { fakeToken } from './fake_host.mjs';
import { writeTinyModel } from './tiny_model.js';

const HOST = new URL('./fake_host.mjs', import.meta.url).href;

let model = '';
const engines: Engine[] = [];
let vocabSize = 0;

/** Registers the hooks of the test file that calls it. */
export function useFakeEngines(): void {
  beforeAll(async () => {
    model = await mkdtemp(join(tmpdir(), 'kadenz-engine-'));
    const shape = { architecture: 'LlamaForCausalLM', seed: 1, maxPositionEmbeddings: 1_000_000 } as const;
    await writeTinyModel(model, shape);
  });
  afterEach(async () => {
    for (const engine of engines.splice(0)) await engine.close();
  });
  afterAll(() => rm(model, { recursive: true }));
}

/** `query` tells the fake host how to misbehave. */
export async function createEngine(options: Partial<EngineOptions> = {}, query = ''): Promise<Engine> {
  const sizes = { maxModelLen: 64, kvCacheBlocks: 256 };
  const engine = await Engine.create({ model, ...sizes, ...options }, HOST + query);
  engines.push(engine);
  vocabSize = engine.info.vocabSize;
  return engine;
}

export const prompt = (length: number, first = 1) =>
  Array.from({ length }, (_, index) => (first + index) % 16);

export const ids = (result: { samples: { tokenIds: Int32Array }[] }) =>
  result.samples.map(({ tokenIds }) => Array.from(tokenIds));

export const lastVocabSize = () => vocabSize;

export function expectedTokens(
  seed: bigint,
  sample: number,
  { from, count }: { from: number; count: number },
) {
  return Array.from({ length: count }, (_, index) =>
    fakeToken({ seed, sample, position: from + index, vocabSize }),
  );
}
