// What this machine offers to compute with, for people who ask why something does not work. Nothing here throws for what is
// missing: it is told as a problem, in a sentence that says what to do.

import { existsSync } from 'node:fs';
import { KadenzError } from '../errors.js';
import { ADDON_PATH, type Addon, cudaPluginPath, guarded, loadAddon, requireCuda } from './addon.js';
import { deviceName, parseDevice } from './device.js';

export interface ProbeProblem {
  /** 'addon', 'plugin', 'driver', 'gpu', 'cublaslt', 'certificate', ... */
  what: string;
  sentence: string;
}

export interface GpuDescription {
  index: number;
  name: string;
  /** As in '9.0'. */
  computeCapability: string;
  memoryBytes: number;
  /** Only with the self-test, which needs the GPU anyway. */
  freeBytes?: number;
  multiprocessors: number;
  pciBusId?: string;
}

/** What kadenz.node and its plugin found. */
export interface CudaProbe {
  plugin: { path: string; loaded: boolean; problem?: string };
  /** The driver's own release, and the newest CUDA that it serves. */
  driver?: { version: string; cuda?: string; path?: string };
  runtime?: { version: string };
  gpus: GpuDescription[];
  cublaslt?: { path: string; version: string };
  /** Of the self-test: which matmul algorithms were tried, how many comparisons were made and how many differed. */
  certificate?: Record<string, unknown>;
  problems: ProbeProblem[];
}

export interface HostProbe {
  /** 'cpu', 'cuda:0' and so on. */
  device: string;
  /** Whether an engine can be made on this device. */
  usable: boolean;
  addon: { path: string; loaded: boolean };
  /** null where only the CPU was asked about, or the addon is not there to ask. */
  cuda: Omit<CudaProbe, 'problems'> | null;
  problems: ProbeProblem[];
}

export interface ProbeOptions {
  /** Default 'cuda'. */
  device?: string;
  /** Run the self-test of the GPU's matmuls, some seconds. Default true. */
  certify?: boolean;
}

/** Throws unsupported_device. */
export function probeHost({ device = 'cuda', certify = true }: ProbeOptions = {}): HostProbe {
  const { kind, index } = parseDevice(device);
  const name = deviceName({ kind, index });
  const { addon, problems } = tryAddon();
  const state = { path: ADDON_PATH, loaded: addon !== null };
  if (addon === null || kind === 'cpu')
    return { device: name, usable: addon !== null, addon: state, cuda: null, problems };
  const { problems: found, ...cuda } = probeCuda(addon, { certify, index });
  const isSeen = cuda.gpus.some((gpu) => gpu.index === index);
  // Where no GPU is seen at all, the plugin has said why.
  if (!isSeen && (cuda.gpus.length > 0 || found.length === 0)) found.unshift(noSuchGpu(index, cuda));
  return {
    device: name,
    usable: cuda.plugin.loaded && found.length === 0,
    addon: state,
    cuda,
    problems: found,
  };
}

function tryAddon(): { addon: Addon | null; problems: ProbeProblem[] } {
  try {
    return { addon: loadAddon(), problems: [] };
  } catch (error) {
    const sentence =
      error instanceof KadenzError
        ? error.message
        : `${ADDON_PATH} can't be loaded (${(error as Error).message}); build it again with \`npm run build:native\`.`;
    return { addon: null, problems: [{ what: 'addon', sentence }] };
  }
}

function probeCuda(addon: Addon, { certify, index }: { certify: boolean; index: number }): CudaProbe {
  const pluginPath = cudaPluginPath();
  try {
    requireCuda(addon);
    const json = guarded(() => addon.probeCuda({ pluginPath, certify, deviceIndex: index }));
    return asProbe(JSON.parse(json) as PluginProbe, pluginPath);
  } catch (error) {
    if (!(error instanceof KadenzError)) throw error;
    const problems = [{ what: 'plugin', sentence: error.message }, ...withoutDriver()];
    return { plugin: { path: pluginPath, loaded: false }, gpus: [], problems };
  }
}

/** As the plugin writes it: it does not know its own path, and numbers cuBLASLt as the library does itself. */
type PluginProbe = Omit<CudaProbe, 'plugin' | 'cublaslt'> & {
  plugin: Omit<CudaProbe['plugin'], 'path'>;
  cublaslt?: { path: string; version: number };
};

function asProbe({ plugin, cublaslt, ...probe }: PluginProbe, pluginPath: string): CudaProbe {
  const whole: CudaProbe = { ...probe, plugin: { ...plugin, path: pluginPath } };
  if (cublaslt !== undefined)
    whole.cublaslt = { path: cublaslt.path, version: versionText(cublaslt.version) };
  if (!plugin.loaded) whole.problems.push(...withoutDriver());
  return whole;
}

/** 130100 is 13.1.0. */
function versionText(version: number): string {
  return [Math.floor(version / 10_000), Math.floor(version / 100) % 100, version % 100].join('.');
}

/** The plugin is who asks the driver. Where there is none, the driver's files still tell whether building it could help. */
function withoutDriver(): ProbeProblem[] {
  if (['/dev/nvidiactl', '/dev/dxg', '/proc/driver/nvidia/version'].some((path) => existsSync(path)))
    return [];
  const sentence =
    "This machine shows no NVIDIA GPU (its driver's device files are not there), so the CUDA host could not run here even if it were built. " +
    'If there is a GPU, install its driver; in a container, give it the GPU.';
  return [{ what: 'driver', sentence }];
}

function noSuchGpu(index: number, { gpus }: Pick<CudaProbe, 'gpus'>): ProbeProblem {
  const seen = gpus.map((gpu) => deviceName({ kind: 'cuda', index: gpu.index })).join(', ');
  const sentence = `There is no cuda:${index} here; this process sees ${seen || 'no GPU'}. Choose another, or look at CUDA_VISIBLE_DEVICES.`;
  return { what: 'gpu', sentence };
}
