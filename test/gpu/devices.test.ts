// On a machine of several GPUs each can be the one, and all of a kind give the same bits. Skipped where there is one.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Engine } from '../../dist/index.js';
import { writeTinyModel } from '../support/tiny_model.js';

const numGpus = execFileSync('nvidia-smi', ['--list-gpus'], { encoding: 'utf8' }).trim().split('\n').length;

let model = '';
beforeAll(() => {
  model = mkdtempSync(join(tmpdir(), 'kadenz-gpu-'));
  writeTinyModel(model, { dtype: 'BF16', architecture: 'Qwen3ForCausalLM', headDim: 64 });
});
afterAll(() => rmSync(model, { recursive: true }));

it.runIf(numGpus > 1)('cuda:1 generates what cuda:0 generates, both at once', async () => {
  const requests = Array.from({ length: 20 }, (_, index) => ({
    promptTokenIds: Array.from({ length: 5 + index * 7 }, (_, k) => (k * 31 + index) % 90),
    maxTokens: 30,
    ignoreEos: true,
    seed: index,
  }));
  const engines = await Promise.all(
    (['cuda:0', 'cuda:1'] as const).map((device) =>
      Engine.create({ model, device, maxNumSeqs: 16, kvCacheBlocks: 512 }),
    ),
  );
  const [first, second] = await Promise.all(engines.map((engine) => engine.generate(requests)));
  const outcomes = (results: typeof first) =>
    results!.map(({ samples }) => ({ tokenIds: samples[0]!.tokenIds, logprobs: samples[0]!.logprobs }));
  expect(outcomes(second)).toEqual(outcomes(first));
  await Promise.all(engines.map((engine) => engine.close()));
});
