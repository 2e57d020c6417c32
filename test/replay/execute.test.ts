// A recorded run of the real engine, executed again. The engine, the worker and the addon are those of the build.

import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Engine, replayExecution } from '../../dist/index.js';
import { repositoryPath } from '../house/files.js';
import { runCli } from '../support/run_cli.js';
import { goldenPath } from './make_golden.js';
import { RecordedRun } from './recorded_run.js';

const MODEL = repositoryPath('models/arithmetic');
const folder = mkdtempSync(join(tmpdir(), 'kadenz-execute-'));
const trace = join(folder, 'run.kdz');
const otherModel = join(folder, 'other-model');

/** Samples of several prompts, with everything that a result can say, on a pool so small that sequences are preempted. */
beforeAll(async () => {
  const engine = await Engine.create({
    ...{ model: MODEL, record: { path: trace, plans: true } },
    ...{
      maxNumSeqs: 8,
      kvCacheBlocks: 40,
      blockSize: 8,
      maxNumBatchedTokens: 64,
      maxModelLen: 160,
      numThreads: 1,
    },
  });
  const ask = (content: string, seed: number) =>
    engine.generate({
      messages: [{ role: 'user', content }],
      ...{
        n: 3,
        maxTokens: 16,
        ignoreEos: true,
        seed,
        logprobs: seed,
        promptLogprobs: seed === 2 ? 1 : null,
      },
    });
  await Promise.all(['What is 12+30?', 'What is 7*8?', 'What is 99-3?'].map(ask));
  await ask('What is 99-3?', 0); // finds its prompt in the prefix cache
  await engine.close();
  copyWithOneByteChanged();
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The last weight of the first tensor of a layer, its sign turned. */
function copyWithOneByteChanged(): void {
  cpSync(MODEL, otherModel, { recursive: true });
  const path = join(otherModel, 'model.safetensors');
  const bytes = readFileSync(path);
  const headerBytes = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes)) as Record<
    string,
    { data_offsets: number[] }
  >;
  const [, end] = header['model.norm.weight']!.data_offsets;
  bytes[8 + headerBytes + end! - 1]! ^= 0x80;
  writeFileSync(path, bytes);
}

describe('kadenz replay --execute', () => {
  it('gives the same tokens and log-prob bits as the recorded run', async () => {
    const { exitCode, stdout, stderr } = await runCli(['replay', trace, '--execute', '--model', MODEL]);
    expect(stderr).toBe('');
    expect(exitCode).toBe(0);
    expect(stdout).toMatch(
      /: equal: \d+ steps, \d+ commands, 192 tokens \(plans byte for byte, tokens and log-probs bit for bit\)\n$/,
    );
  });

  it('gives them whatever the number of threads', async () => {
    const report = await replayExecution(trace, { model: MODEL, numThreads: 2, until: 'end' });
    expect(report).toMatchObject({ mode: 'tokens', difference: null, ended: 'end', numTokens: 192 });
    const { numPreemptions, cachedPromptTokens } = report.state!.stats;
    expect(numPreemptions, 'preempted sequences are among what was compared').toBeGreaterThan(0);
    expect(cachedPromptTokens, 'and so are prefix-cache hits').toBeGreaterThan(0);
  });

  it('with one byte of one weight changed names the first token or log-prob that differs, and warns of the other model', async () => {
    const { exitCode, stdout, stderr } = await runCli(['replay', trace, '--execute', '--model', otherModel]);
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(
      /recorded with another model than .*other-model: its fingerprint is [0-9a-f]{64}, this one's is [0-9a-f]{64}/,
    );
    expect(stdout).toMatch(
      /differs at step 2, after 1 step, 1 command, 0 tokens that are equal\n {2}request 1, sample 0, position 96\n {2}field {5}(token_ids|logprob)\[0\]\n {2}recorded {2}\S+.*\n {2}replayed {2}\S+/,
    );
  });

  it('stops at --until with the state there', async () => {
    const report = await replayExecution(trace, { model: MODEL, until: 3 });
    expect(report).toMatchObject({ ended: 'until', numSteps: 3, state: { step: 3 } });
  });

  it('refuses a trace without a host', async () => {
    await expect(replayExecution(goldenPath('fan_out'), { model: MODEL })).rejects.toMatchObject({
      code: 'trace_unsupported',
      message: expect.stringMatching(/recorded without a host .* without --execute/),
    });
  });

  it('refuses another kind of device than the one that the run was recorded on', async () => {
    const { exitCode, stdout, stderr } = await runCli([
      ...['replay', trace, '--execute', '--model', MODEL, '--device', 'cuda'],
    ]);
    expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: '' });
    expect(stderr).toMatch(
      /recorded on the host 'cpu x86-64 bfloat16 numerics-1'; device 'cuda:0' computes other bits .* --device cpu.*\(trace_mismatch\)/,
    );
    await expect(replayExecution(trace, { model: MODEL, device: 'tpu' as never })).rejects.toMatchObject({
      code: 'unsupported_device',
    });
  });

  it('executes a run of a GPU on a GPU, without being told, and on nothing else', async () => {
    const { vocab_size: vocabSize } = JSON.parse(readFileSync(join(MODEL, 'config.json'), 'utf8'));
    const run = await RecordedRun.create(
      { vocabSize },
      { hostFingerprint: 'cuda Some GPU float16 certificate of float32 sums' },
    );
    run.add({ id: 1 });
    const path = join(folder, 'of_a_gpu.kdz');
    writeFileSync(path, await run.bytes());
    process.env.KADENZ_CUDA_PLUGIN = join(folder, 'no_plugin.so');
    try {
      await expect(replayExecution(path, { model: MODEL })).rejects.toMatchObject({
        code: 'cuda_plugin_missing',
      });
    } finally {
      delete process.env.KADENZ_CUDA_PLUGIN;
    }
    await expect(replayExecution(path, { model: MODEL, device: 'cpu' })).rejects.toMatchObject({
      code: 'trace_mismatch',
      message: expect.stringContaining('--device cuda'),
    });
  });

  it('refuses a model of another vocabulary', async () => {
    const run = await RecordedRun.create({}, { hostFingerprint: 'cpu x86-64 float32 numerics-1' });
    run.add({ id: 1 });
    const path = join(folder, 'vocabulary.kdz');
    writeFileSync(path, await run.bytes());
    await expect(replayExecution(path, { model: MODEL })).rejects.toMatchObject({
      code: 'trace_mismatch',
      message: expect.stringMatching(/a vocabulary of 1000 tokens; this model has \d+/),
    });
  });
});
