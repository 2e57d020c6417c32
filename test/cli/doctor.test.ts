import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { doctorInWords } from '../../dist/cli/doctor.js';
import { StartView } from '../../dist/cli/start_view.js';
import type { HostProbe } from '../../dist/index.js';
import { runCli } from '../support/run_cli.js';
import { writeTinyModel } from '../support/tiny_model.js';

const NO_PLUGIN = '/nowhere/at/all/kadenz_cuda.so';
const pluginBefore = process.env.KADENZ_CUDA_PLUGIN;
let model = '';

beforeAll(async () => {
  process.env.KADENZ_CUDA_PLUGIN = NO_PLUGIN;
  model = await mkdtemp(join(tmpdir(), 'kadenz-doctor-'));
  writeTinyModel(model);
});

afterAll(async () => {
  if (pluginBefore === undefined) delete process.env.KADENZ_CUDA_PLUGIN;
  else process.env.KADENZ_CUDA_PLUGIN = pluginBefore;
  await rm(model, { recursive: true });
});

const noStack = expect.not.stringMatching(/\n\s+at /);

describe('kadenz doctor', () => {
  it('where the CUDA host is missing says so, what to do, and that the CPU host works, and exits with 1', async () => {
    const { exitCode, stdout, stderr } = await runCli(['doctor']);
    expect({ exitCode, stderr }).toEqual({ exitCode: 1, stderr: '' });
    expect(stdout).toMatch(/│ CPU host +│ works/);
    expect(stdout).toContain(`What is wrong:\n  - The CUDA host is not built: ${NO_PLUGIN} is missing.`);
    expect(stdout).toMatch(/--device cuda:0 can't be used here\. The CPU host works on this machine/);
  });

  it('says the same as JSON, its names in snake case', async () => {
    const { version } = JSON.parse(await readFile(new URL('../../package.json', import.meta.url), 'utf8'));
    const { exitCode, lines } = await runCli(['doctor', '--device', 'cuda:2', '--json']);
    expect(exitCode).toBe(1);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatchObject({
      ...{ kadenz_version: version, node_version: process.versions.node, device: 'cuda:2', usable: false },
      cuda: { plugin: { path: NO_PLUGIN, loaded: false }, gpus: [] },
    });
    expect((lines[0] as never as HostProbe).problems[0]).toMatchObject({ what: 'plugin' });
  });

  it('finds nothing wrong with the CPU', async () => {
    const { exitCode, stdout } = await runCli(['doctor', '--device', 'cpu']);
    expect(exitCode).toBe(0);
    expect(stdout).toContain('--device cpu can be used.');
    expect(stdout).not.toContain('What is wrong');
  });

  it('refuses a device that it does not know', async () => {
    const { exitCode, stdout, stderr } = await runCli(['doctor', '--device', 'tpu']);
    expect({ exitCode, stdout }).toEqual({ exitCode: 1, stdout: '' });
    expect(stderr).toContain('(unsupported_device)');
  });
});

describe('the words of the doctor', () => {
  const gpu = (index: number) => ({
    ...{ index, name: 'NVIDIA H200', computeCapability: '9.0', multiprocessors: 132 },
    ...{ memoryBytes: 139.8 * 2 ** 30, freeBytes: 139.2 * 2 ** 30 },
  });
  const found: HostProbe = {
    ...{ device: 'cuda:1', usable: true, addon: { path: '/a/kadenz.node', loaded: true }, problems: [] },
    cuda: {
      plugin: { path: '/a/kadenz_cuda.so', loaded: true },
      ...{
        driver: { version: '580.159', cuda: '13.0' },
        runtime: { version: '13.0' },
        gpus: [gpu(0), gpu(1)],
      },
      cublaslt: { path: '/b/libcublasLt.so.13', version: '13.1.0' },
      certificate: {
        ...{ numComparisons: 480, numDiffering: 0 },
        algorithms: [
          { configId: 66, passed: true },
          { configId: 13, passed: false },
        ],
      },
    },
  };

  it('name each GPU and each field of the certificate, and say that the device can be used', () => {
    const text = doctorInWords('9.9.9', found);
    const memory = '139.8 GiB of memory, 139.2 free';
    for (const [what, words] of [
      ['Kadenz', '9.9.9, Node '],
      ['CUDA host', '/a/kadenz_cuda.so'],
      ['driver', '580.159, serves CUDA 13.0'],
      ['CUDA runtime', '13.0'],
      ['cuda:0', `NVIDIA H200, compute capability 9.0, 132 multiprocessors, ${memory}`],
      ['cuda:1', 'NVIDIA H200'],
      ['cuBLASLt', '13.1.0, /b/libcublasLt.so.13'],
      ['certificate: num comparisons', '480'],
      ['certificate: num differing', '0'],
      ['certificate: algorithms', 'config id 66, passed true'],
      ['certificate: algorithms', 'config id 13, passed false'],
    ] as const) {
      const line = text.split('\n').find((row) => row.startsWith(`│ ${what} `) && row.includes(words));
      expect(line, `${what}: ${words}\n${text}`).toBeDefined();
    }
    expect(text).toMatch(/All is well: --device cuda:1 can be used\.\n$/);
  });

  it('say what is missing where the CUDA host is there and a driver is not', () => {
    const problems = [{ what: 'driver', sentence: 'There is no NVIDIA driver.' }];
    const plugin = { path: '/a/kadenz_cuda.so', loaded: true };
    const text = doctorInWords('9.9.9', { ...found, usable: false, problems, cuda: { plugin, gpus: [] } });
    for (const what of ['driver', 'CUDA runtime', 'GPU', 'cuBLASLt'])
      expect(text).toMatch(new RegExp(`│ ${what} +│ not found +│`));
    expect(text).toContain('What is wrong:\n  - There is no NVIDIA driver.\n');
    expect(text).toContain("--device cuda:1 can't be used here. The CPU host works");
  });
});

describe('--device cuda on a machine without it', () => {
  it.each([['generate'], ['score']])('makes %s say what is missing and exit with 1', async (command) => {
    const input = command === 'generate' ? ['--prompt', 'a'] : ['--sequences', '-'];
    const run = await runCli([command, '--model', model, '--device', 'cuda', ...input]);
    expect(run).toMatchObject({ exitCode: 1, stdout: '', stderr: noStack });
    expect(run.stderr).toContain(`${NO_PLUGIN} is missing`);
    expect(run.stderr).toContain('(cuda_plugin_missing)');
  });

  const hasDriver = ['/dev/nvidiactl', '/dev/dxg'].some((path) => existsSync(path));

  it.skipIf(hasDriver)('says so with the plugin of this build too, where there is one', async () => {
    delete process.env.KADENZ_CUDA_PLUGIN;
    try {
      const run = await runCli(['generate', '--model', model, '--device', 'cuda', '--prompt', 'a']);
      expect(run).toMatchObject({ exitCode: 1, stdout: '', stderr: noStack });
      expect(run.stderr).toMatch(/\((cuda_plugin_missing|cuda_unavailable)\)\n$/);
    } finally {
      process.env.KADENZ_CUDA_PLUGIN = NO_PLUGIN;
    }
  });

  it.each([
    [['--dtype', 'float16'], 'unsupported_dtype'],
    [['--device', 'cuda', '--dtype', 'float32'], 'unsupported_dtype'],
    [['--gpu-memory-utilization', '0.5'], 'invalid_argument'],
    [['--device', 'cuda', '--gpu-memory-utilization', '90'], 'invalid_argument'],
    [['--no-cuda-graphs'], 'invalid_argument'],
    [['--device', 'cuda:x'], 'unsupported_device'],
  ])('refuses %j with %s', async (flags, code) => {
    const run = await runCli(['generate', '--model', model, '--prompt', 'a', ...flags]);
    expect(run).toMatchObject({ exitCode: 1, stdout: '', stderr: noStack });
    expect(run.stderr).toContain(`(${code})`);
  });
});

describe('the view of a start without a terminal', () => {
  it('logs a line when a stage is over, whether or not it came to its total', () => {
    const lines: unknown[] = [];
    const logger = { info: (fields: object, sentence: string) => lines.push([fields, sentence]) };
    const view = new StartView(logger as never);
    for (const done of [0, 5e9, 16.3e9]) view.show({ stage: 'weights', done, total: 16.4e9 });
    for (const done of [0, 1, 2]) view.show({ stage: 'graphs', done, total: 2 });
    view.end();
    expect(lines).toEqual([
      [{ stage: 'weights', done: 16.3e9, total: 16.4e9 }, 'loading weights: 16.3 GB of 16.4 GB'],
      [{ stage: 'graphs', done: 2, total: 2 }, 'capturing CUDA graphs: 2 of 2'],
    ]);
  });
});
