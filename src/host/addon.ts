// kadenz.node and the CUDA plugin beside it: where they lie, what the addon offers, and its errors as KadenzErrors.
//
// The addon is loaded when somebody needs it and not before. It loads on any machine; the plugin, a library of its own, is opened by the
// addon, and only for device 'cuda'.

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KadenzError, type KadenzErrorCode } from '../errors.js';
import type { ModelConfig } from '../model/index.js';
import type { DeviceKind } from './device.js';
import type { HostDtype, HostInfo } from './host.js';
import type { ReportProgress } from './start_progress.js';

export interface Addon {
  NativeHost: new (options: AddonOptions) => AddonHost;
  /** JSON of a CudaProbe: what is wrong stands in its `problems`. */
  probeCuda(options: { pluginPath: string; certify: boolean; deviceIndex: number }): string;
}

export interface AddonHost {
  submit(instruction: Uint8Array): void;
  collect(): Uint8Array;
  /** Of the CPU the fingerprint is written in TypeScript, and so is the number of blocks, which the caller gave. */
  info(): Omit<HostInfo, 'device' | 'fingerprint' | 'numBlocks'> & {
    device?: string;
    fingerprint?: string;
    numBlocks?: number;
  };
  close(): void;
}

/** Every field is there on every device; what a device has no use for is not looked at. */
export interface AddonOptions {
  config: ModelConfig;
  tensors: object[];
  files: string[];
  device: DeviceKind;
  deviceIndex: number;
  dtype: HostDtype;
  /** 0, with cuda: what gpuMemoryUtilization leaves, at most `mostBlocks`. */
  numBlocks: number;
  mostBlocks: number;
  blockSize: number;
  maxNumSeqs: number;
  maxModelLen: number;
  maxNumBatchedTokens: number;
  numThreads: number;
  isa?: 'scalar' | 'avx2' | 'avx512';
  pluginPath: string;
  gpuMemoryUtilization: number;
  cudaGraphs: boolean;
  unrestrictedMatmul: boolean;
  /** Called from within the constructor. */
  progress: ReportProgress;
}

export const ADDON_PATH = fileURLToPath(new URL('../../build/native/Release/kadenz.node', import.meta.url));

/** KADENZ_CUDA_PLUGIN, or beside the addon. */
export function cudaPluginPath(): string {
  const given = process.env.KADENZ_CUDA_PLUGIN ?? '';
  return given === '' ? join(dirname(ADDON_PATH), 'kadenz_cuda.so') : resolve(given);
}

/** Throws native_addon_missing. */
export function loadAddon(): Addon {
  if (!existsSync(ADDON_PATH)) {
    const sentence = `${ADDON_PATH} is missing; build it with \`npm run build:native\`.`;
    throw new KadenzError('native_addon_missing', sentence, { path: ADDON_PATH });
  }
  return createRequire(import.meta.url)(ADDON_PATH) as Addon;
}

/**
 * That device 'cuda' can be asked for at all. Whether a driver and a GPU are there the plugin finds out. An addon from before there was
 * one would pass over `device` and compute on the CPU. Throws cuda_plugin_missing and native_addon_missing.
 */
export function requireCuda(addon: Addon): void {
  const path = cudaPluginPath();
  if (!existsSync(path)) {
    throw new KadenzError(
      'cuda_plugin_missing',
      `The CUDA host is not built: ${path} is missing. \`npm run build:native\` builds it where nvcc of the CUDA toolkit is found; ` +
        "KADENZ_CUDA_PLUGIN names one that lies elsewhere. Device 'cpu' works without it.",
      { path },
    );
  }
  if (typeof addon.probeCuda !== 'function') {
    const sentence = `${ADDON_PATH} is of a version without CUDA; build it again with \`npm run build:native\`.`;
    throw new KadenzError('native_addon_missing', sentence, { path: ADDON_PATH });
  }
}

/** The addon throws Errors with a `code` for what a caller or the world got wrong; anything else is a fault and stays as it is. */
export function guarded<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    const { code, message } = error as { code?: unknown; message: string };
    if (typeof code === 'string') throw new KadenzError(code as KadenzErrorCode, message);
    throw error;
  }
}
