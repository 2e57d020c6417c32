// Recording a run through the engine and the command line, with the embedded model.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { coreSha256, decodeConfigure, decodeResult } from '../../dist/core/index.js';
import { Engine, type EngineOptions, type GenerateResult } from '../../dist/index.js';
import { type TraceEvent, TraceReader } from '../../dist/trace/index.js';
import { repositoryPath } from '../house/files.js';

const model = repositoryPath('models/arithmetic');
const folder = mkdtempSync(join(tmpdir(), 'kadenz-record-'));
const fakeHost = (orders: string) => new URL(`../support/fake_host.mjs${orders}`, import.meta.url).href;
afterAll(() => rmSync(folder, { recursive: true }));

async function readAll(path: string): Promise<{ reader: TraceReader; events: TraceEvent[] }> {
  const reader = await TraceReader.open(path);
  const events = [...reader.events()];
  reader.close();
  return { reader, events };
}

async function recordRun(record: EngineOptions['record']): Promise<GenerateResult[]> {
  const engine = await Engine.create({ model, maxNumSeqs: 16, ...(record === undefined ? {} : { record }) });
  const requests = Array.from({ length: 12 }, (_, i) => ({
    promptTokenIds: Array.from({ length: 3 + i }, (_, at) => 10 + i + at),
    n: 3,
    maxTokens: 20,
    ignoreEos: true,
    logprobs: i === 4 ? 2 : 0,
    ...(i === 5 ? { promptLogprobs: 1 } : {}),
  }));
  const results = await engine.generate(requests);
  await engine.close();
  return results;
}

/** Bits, so that NaN equals NaN. */
const bits = (values: ArrayLike<number>) => Array.from(new Uint32Array(Float32Array.from(values).buffer));

describe('a recorded run', () => {
  const path = join(folder, 'run.kdz');
  let results: GenerateResult[];
  let reader: TraceReader;
  let events: TraceEvent[];
  beforeAll(async () => {
    results = await recordRun(path);
    ({ reader, events } = await readAll(path));
  });

  it('says in its header which core, configuration, model and host it was', async () => {
    expect(reader.header).toMatchObject({
      coreSha256: await coreSha256(),
      model,
      hostFingerprint: 'cpu x86-64 bfloat16 numerics-1',
      hasPlans: false,
    });
    expect(reader.header.modelFingerprint).toMatch(/^[0-9a-f]{64}$/);
    expect(decodeConfigure(reader.header.configure)).toMatchObject({ maxNumSeqs: 16, blockSize: 16 });
  });

  it('is whole, and ends with the number of its steps', () => {
    expect(reader.problem).toBeNull();
    const steps = events.filter(({ kind }) => kind === 'step');
    expect(events.at(-1)).toMatchObject({ kind: 'end', numSteps: steps.length });
    expect(steps.map((event) => event.kind === 'step' && event.step)).toEqual(steps.map((_, i) => i + 1));
  });

  it('holds every token and log-prob that came out, bit by bit', () => {
    const recorded: string[] = [];
    for (const event of events) {
      if (event.kind !== 'step') continue;
      const { tokenIds, logprobs } = decodeResult(event.result);
      const bitsOfStep = bits(logprobs as number[]);
      Array.from(tokenIds, (token, i) => recorded.push(`${token} ${bitsOfStep[i]}`));
    }
    const samples = results.flatMap(({ samples }) => samples);
    const delivered = samples.flatMap(({ tokenIds, logprobs }) => {
      const bitsOfSample = bits(logprobs ?? []);
      return Array.from(tokenIds, (token, i) => `${token} ${bitsOfSample[i]}`);
    });
    const left = new Map<string, number>();
    for (const key of recorded) left.set(key, (left.get(key) ?? 0) + 1);
    for (const key of delivered) left.set(key, (left.get(key) ?? 0) - 1);
    expect([...left.values()].filter((count) => count < 0)).toEqual([]);
    expect(delivered.length).toBeGreaterThan(300);
  });

  it('has the same events compressed, in fewer bytes, and the same with plans', async () => {
    const events = await Promise.all(
      (['none', 'zstd'] as const).map(async (compression) => {
        const file = join(folder, `${compression}.kdz`);
        await recordRun({ path: file, compression, plans: true });
        const { reader, events } = await readAll(file);
        expect(reader.problem).toBeNull();
        expect(reader.header.hasPlans).toBe(true);
        return events.filter((event) => event.kind === 'step' && event.plan !== null).length;
      }),
    );
    expect(events[0]).toBeGreaterThan(20);
    const [plain, packed] = ['none', 'zstd'].map((name) => statSync(join(folder, `${name}.kdz`)).size);
    expect(packed).toBeLessThan(plain! / 2);
  });
});

describe('what a recording costs on disk', () => {
  it('is at most 40 bytes a token, for many sequences and for one', async () => {
    for (const [n, maxTokens] of [
      [64, 60],
      [1, 400],
    ] as const) {
      const path = join(folder, `size-${n}.kdz`);
      const engine = await Engine.create({ model, record: path });
      const result = await engine.generate({ promptTokenIds: [5, 6, 7], n, maxTokens, ignoreEos: true });
      await engine.close();
      const numTokens = result.samples.reduce((sum, { tokenIds }) => sum + tokenIds.length, 0);
      expect(numTokens).toBe(n * maxTokens);
      expect(statSync(path).size / numTokens).toBeLessThan(40);
    }
  });
});

describe('a recording that fails', () => {
  it('refuses a path that can not be written before anything is loaded', async () => {
    const record = join(folder, 'missing', 'run.kdz');
    await expect(Engine.create({ model, record })).rejects.toMatchObject({ code: 'record_failed' });
  });

  it('does not stop the run when the disk is full; the log says it, and close rejects', async () => {
    const errors: string[] = [];
    const logger = { info: () => {}, error: (message: string) => errors.push(message) };
    const engine = await Engine.create({ model, record: '/dev/full', logger });
    const result = await engine.generate({ promptTokenIds: [5, 6, 7], maxTokens: 30 });
    expect(result.samples[0]!.tokenIds.length).toBeGreaterThan(0);
    await expect(engine.close()).rejects.toMatchObject({ code: 'record_failed' });
    expect(errors[0]).toContain('/dev/full');
  });

  it('refuses options that it does not know', async () => {
    for (const record of ['', 3, { path: 'x', plan: true }, { path: 'x', compression: 'gzip' }]) {
      const options = { model, record } as unknown as EngineOptions;
      const code = expect.stringMatching(/^(invalid_argument|unknown_option)$/);
      await expect(Engine.create(options)).rejects.toMatchObject({ code });
    }
  });
});

describe('a run that dies', () => {
  it('leaves what its worker had recorded before it died, without an end', async () => {
    const path = join(folder, 'died.kdz');
    const engine = await Engine.create({ model, record: path }, fakeHost('?throwAtStep=9'));
    const request = { promptTokenIds: [1, 2, 3], maxTokens: 50, ignoreEos: true };
    await expect(engine.generate(request)).rejects.toMatchObject({ code: 'worker_died' });
    await engine.close();
    const { reader, events } = await readAll(path);
    expect(events.filter(({ kind }) => kind === 'step')).toHaveLength(8);
    expect(reader.problem).toMatchObject({ kind: 'cut' });
  });

  it('leaves a trace that reads up to its last whole frame when its process is killed', async () => {
    const path = join(folder, 'killed.kdz');
    const flags = ['--model', model, '--prompts', '-', '--n', '8', '--max-tokens', '200', '--ignore-eos'];
    const args = [repositoryPath('dist/cli/main.js'), 'generate', ...flags, '--record', path];
    const script =
      'for(const i of Array(400).keys())console.log(JSON.stringify({prompt_token_ids:[5,6,i%50]}))';
    const run = spawn(process.execPath, args, { stdio: ['pipe', 'ignore', 'ignore'] });
    spawn(process.execPath, ['-e', script], { stdio: ['ignore', 'pipe', 'ignore'] }).stdout.pipe(run.stdin);
    run.stdin.on('error', () => {});
    const died = new Promise((resolve) => run.once('exit', (_, signal) => resolve(signal)));
    const size = () => statSync(path, { throwIfNoEntry: false })?.size ?? 0;
    while (size() < 200_000) await new Promise((resolve) => setTimeout(resolve, 5));
    run.kill('SIGKILL');
    expect(await died).toBe('SIGKILL');
    const { reader, events } = await readAll(path);
    expect(reader.problem).toMatchObject({ kind: 'cut' });
    expect(events.filter(({ kind }) => kind === 'step').length).toBeGreaterThan(10);
    expect(readFileSync(path).byteLength).toBeGreaterThanOrEqual(reader.problem!.offset);
  });
});
