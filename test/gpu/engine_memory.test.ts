// The engine gives the GPU's memory back with requests under way, and they end with the bits that they would have had.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { Engine } from '../../dist/index.js';
import { runCli } from '../support/run_cli.js';
import { samplesOf } from '../support/samples.js';
import { randomModel } from './random_model.js';

const requests = Array.from({ length: 32 }, (_, index) => ({
  promptTokenIds: Array.from({ length: 20 + 9 * index }, (_, k) => (k * 6151 + index * 977) % 30_000),
  ...{ n: 2, maxTokens: 400, ignoreEos: true, seed: index },
}));

it.each([
  ['KV cache and weights', undefined],
  ['the KV cache', ['kv_cache'] as const],
])(
  '%s are released with 64 samples under way, which end with the bits of a run without it; the trace replays',
  async (_, tags) => {
    const folder = mkdtempSync(join(tmpdir(), 'kadenz-gpu-'));
    const record = join(folder, 'run.kdz');
    try {
      const engine = await Engine.create({
        ...{ model: randomModel('qwen2.5-0.5b'), device: 'cuda', record },
        ...{ maxModelLen: 1024, maxNumSeqs: 64, kvCacheBlocks: 8192 },
      });
      const undisturbed = samplesOf(await engine.generate(requests));
      const before = await engine.stats();
      const running = engine.generate(requests);
      while ((await engine.stats()).generationTokens - before.generationTokens < 2_000);
      await engine.memory.release({ tags });
      expect((await engine.stats()).numRequests).toBe(requests.length);
      await engine.memory.resume();
      expect(samplesOf(await running)).toEqual(undisturbed);
      await engine.close();
      const replay = await runCli(['replay', record]);
      expect(replay.stderr + replay.stdout).toContain('equal');
      expect(replay.exitCode).toBe(0);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);
