// Device 'cuda' where it can't be had: refused by name, never computed elsewhere. What a GPU computes is tested where there is one.

import { existsSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { ADDON_PATH, cudaPluginPath } from '../../src/host/addon.js';
import { openHost } from '../../src/host/native_host.js';
import { probeHost } from '../../src/host/probe.js';
import { type ReportProgress, thinProgress } from '../../src/host/start_progress.js';
import { loadModel } from '../../src/model/index.js';
import { LIMITS, TestHosts } from './hosts.js';

const hosts = new TestHosts();
const hasDriver = ['/dev/nvidiactl', '/dev/dxg'].some((path) => existsSync(path));

const CUDA = {
  ...{ deviceIndex: 0, gpuMemoryUtilization: 0.9, mostBlocks: 96 },
  ...{ cudaGraphs: true, unrestrictedMatmul: false },
};
const start = () => hosts.start('llama', { dtype: 'bfloat16', cuda: CUDA });

const require = createRequire(import.meta.url);
let pluginBefore: string | undefined;
beforeEach(() => {
  pluginBefore = process.env.KADENZ_CUDA_PLUGIN;
});
afterEach(() => {
  delete require.cache[ADDON_PATH];
  if (pluginBefore === undefined) delete process.env.KADENZ_CUDA_PLUGIN;
  else process.env.KADENZ_CUDA_PLUGIN = pluginBefore;
});

describe('a CUDA host', () => {
  it('is refused where its plugin is missing, with its path and how to get it', () => {
    process.env.KADENZ_CUDA_PLUGIN = join(hosts.folder, 'nowhere.so');
    expect(start).toThrowError(
      expect.objectContaining({
        code: 'cuda_plugin_missing',
        message: expect.stringMatching(/nowhere\.so is missing\. `npm run build:native` builds it/),
      }),
    );
  });

  it.skipIf(hasDriver)('is refused on a machine without a driver, and says what is missing', () => {
    const code = existsSync(cudaPluginPath()) ? 'cuda_unavailable' : 'cuda_plugin_missing';
    expect(start).toThrowError(
      expect.objectContaining({ code, message: expect.stringMatching(/driver|GPU|is missing/) }),
    );
  });

  it('leaves the CPU host as it is', () => {
    process.env.KADENZ_CUDA_PLUGIN = join(hosts.folder, 'nowhere.so');
    expect(hosts.start().info).toMatchObject({
      ...{ device: 'cpu', fingerprint: 'cpu x86-64 float32 numerics-1', numBlocks: 96 },
    });
  });
});

/** A plugin that is there, and an addon that knows it: what it is given is kept in `given`. */
function pretendAddon({ info = {}, probe = {} }: { info?: object; probe?: object } = {}) {
  const given: { options?: Record<string, unknown>; probed?: object } = {};
  class FakeNativeHost {
    constructor(options: Record<string, unknown>) {
      given.options = options;
      (options.progress as ReportProgress)('weights', 1, 2);
    }
    info() {
      return { isa: 'Some GPU', weightBytes: 1, kvBytes: 2, scratchBytes: 3, ...info };
    }
    close() {}
  }
  const probeCuda = (options: object) => {
    given.probed = options;
    return JSON.stringify({
      plugin: { path: 'x', loaded: true },
      gpus: [{ index: 0 }],
      problems: [],
      ...probe,
    });
  };
  process.env.KADENZ_CUDA_PLUGIN = join(hosts.folder, 'pretended.so');
  writeFileSync(process.env.KADENZ_CUDA_PLUGIN, '');
  require.cache[ADDON_PATH] = { loaded: true, exports: { NativeHost: FakeNativeHost, probeCuda } } as never;
  return given;
}

describe('a CUDA host whose addon has one', () => {
  it('hands the addon every option, and has the device, the blocks and the fingerprint from there', () => {
    const given = pretendAddon({ info: { numBlocks: 41, fingerprint: 'cuda Some GPU' } });
    const told: unknown[] = [];
    const cuda = { ...CUDA, deviceIndex: 2, cudaGraphs: false, gpuMemoryUtilization: 0.5 };
    const model = loadModel(join(hosts.folder, 'llama'));
    const host = openHost(
      { ...LIMITS, numBlocks: 0, dtype: 'float16', numThreads: 2, model, cuda },
      (...report) => told.push(report),
    );
    const { config, tensors, files, progress, ...options } = given.options!;
    expect({ config, files }).toEqual({ config: model.config, files: model.files });
    expect((tensors as { dtype: string }[])[0]!.dtype).toBe('float32');
    expect(progress).toBeTypeOf('function');
    expect(options).toEqual({
      ...{ ...LIMITS, numBlocks: 0, dtype: 'float16', numThreads: 2, device: 'cuda', deviceIndex: 2 },
      ...{ mostBlocks: 96, gpuMemoryUtilization: 0.5, cudaGraphs: false, unrestrictedMatmul: false },
      pluginPath: join(hosts.folder, 'pretended.so'),
    });
    expect(host.info).toEqual({
      ...{ device: 'cuda:2', isa: 'Some GPU', fingerprint: 'cuda Some GPU', numBlocks: 41 },
      ...{ weightBytes: 1, kvBytes: 2, scratchBytes: 3 },
    });
    expect(told).toEqual([['weights', 1, 2]]);
  });

  it('does not go on without a fingerprint', () => {
    pretendAddon();
    expect(start).toThrowError('the CUDA host has no fingerprint');
  });

  it('is probed with the self-test unless told otherwise, and usable only where its GPU is', () => {
    const given = pretendAddon();
    const pluginPath = join(hosts.folder, 'pretended.so');
    expect(probeHost()).toMatchObject({ usable: true, problems: [] });
    expect(given.probed).toEqual({ pluginPath, certify: true, deviceIndex: 0 });
    const other = probeHost({ device: 'cuda:1', certify: false });
    expect(given.probed).toEqual({ pluginPath, certify: false, deviceIndex: 1 });
    expect(other).toMatchObject({ usable: false, problems: [{ what: 'gpu' }] });
    expect(other.problems[0]!.sentence).toContain('There is no cuda:1 here; this process sees cuda:0.');
  });

  it('tells where the plugin lies, and the version of cuBLASLt as people write it', () => {
    pretendAddon({ probe: { cublaslt: { path: '/b/libcublasLt.so.13', version: 130_100 } } });
    expect(probeHost().cuda).toEqual({
      plugin: { path: join(hosts.folder, 'pretended.so'), loaded: true },
      gpus: [{ index: 0 }],
      cublaslt: { path: '/b/libcublasLt.so.13', version: '13.1.0' },
    });
  });

  it('is not usable while the plugin tells of a problem', () => {
    pretendAddon({ probe: { problems: [{ what: 'cublaslt', sentence: 'No cuBLASLt.' }] } });
    expect(probeHost()).toMatchObject({ usable: false, problems: [{ sentence: 'No cuBLASLt.' }] });
  });
});

describe('the probe', () => {
  it('tells of a missing plugin as a problem, and throws nothing', () => {
    process.env.KADENZ_CUDA_PLUGIN = join(hosts.folder, 'nowhere.so');
    const { usable, addon, cuda, problems } = probeHost({ device: 'cuda:1' });
    expect({ usable, addon: addon.loaded }).toEqual({ usable: false, addon: true });
    expect(cuda!.plugin).toEqual({ path: join(hosts.folder, 'nowhere.so'), loaded: false });
    expect(problems[0]).toMatchObject({ what: 'plugin', sentence: expect.stringContaining('nowhere.so') });
    expect(problems.some(({ what }) => what === 'driver')).toBe(!hasDriver);
  });

  it('tells of a plugin that is no library as a problem too', () => {
    const path = join(hosts.folder, 'text.so');
    writeFileSync(path, 'not a library');
    process.env.KADENZ_CUDA_PLUGIN = path;
    const { usable, cuda, problems } = probeHost();
    expect({ usable, loaded: cuda!.plugin.loaded }).toEqual({ usable: false, loaded: false });
    expect(problems.length).toBeGreaterThan(0);
  });

  it('asked about the CPU, looks for nothing else', () => {
    expect(probeHost({ device: 'cpu' })).toMatchObject({
      ...{ device: 'cpu', usable: true, cuda: null, problems: [] },
    });
  });
});

describe('thinned progress', () => {
  it('keeps the ends of each stage, whatever its size', () => {
    const told: string[] = [];
    const report = thinProgress(({ stage, done, total }) => told.push(`${stage} ${done}/${total}`));
    for (const done of [0, 1, 2, 3]) report('graphs', done, 3);
    for (const done of [0, 1, 2, 999, 1000]) report('weights', done, 1000);
    report('nothing', 0, 0);
    report('nothing', 0, 0);
    expect(told).toEqual([
      ...['graphs 0/3', 'graphs 1/3', 'graphs 2/3', 'graphs 3/3'],
      ...['weights 0/1000', 'weights 999/1000', 'weights 1000/1000', 'nothing 0/0'],
    ]);
  });
});
