// A run that was recorded on a GPU executes again to the same tokens and log-prob bits there, and replays without one.
// KADENZ_GPU_TRACE keeps the trace; KADENZ_GPU_OTHER_TRACE names one that another machine of the same kind recorded.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Engine } from '../../dist/index.js';
import { runCli } from '../support/run_cli.js';
import { randomModel } from './random_model.js';

let folder = '';
let trace = '';
const model = () => randomModel('qwen2.5-0.5b');

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kadenz-gpu-'));
  trace = process.env.KADENZ_GPU_TRACE ?? join(folder, 'run.kdz');
  const engine = await Engine.create({
    ...{ model: model(), device: 'cuda', maxNumSeqs: 32, maxModelLen: 1024, kvCacheBlocks: 400 },
    record: trace,
  });
  const results = await engine.generate(
    Array.from({ length: 40 }, (_, index) => ({
      promptTokenIds: Array.from(
        { length: 30 + ((index * 53) % 200) },
        (_, k) => 9 + ((k * 37 + index) % 9000),
      ),
      n: 1 + (index % 3),
      maxTokens: 20 + (index % 50),
      ignoreEos: true,
      seed: index,
      ...(index % 4 === 0 ? { topP: 0.8, presencePenalty: 0.5 } : {}),
    })),
  );
  expect(results.every(({ error }) => error === undefined)).toBe(true);
  await engine.close();
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('a trace of a GPU run', () => {
  it('replays to the same plans', async () => {
    const { exitCode, stdout } = await runCli(['replay', trace]);
    expect(stdout).toMatch(/equal/);
    expect(exitCode).toBe(0);
  });

  it('executes to the same tokens and log-prob bits', async () => {
    const { exitCode, stdout, stderr } = await runCli(['replay', trace, '--execute', '--model', model()]);
    expect(`${stdout}${stderr}`).toMatch(/equal/);
    expect(exitCode).toBe(0);
  });

  it.runIf(process.env.KADENZ_GPU_OTHER_TRACE !== undefined)(
    'of another machine executes to the same bits on this one',
    async () => {
      const other = process.env.KADENZ_GPU_OTHER_TRACE!;
      const { exitCode, stdout, stderr } = await runCli(['replay', other, '--execute', '--model', model()]);
      expect(`${stdout}${stderr}`).toMatch(/equal/);
      expect(exitCode).toBe(0);
    },
  );
});
