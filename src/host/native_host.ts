// The native host: a model opened by kadenz.node, on the CPU or, with its plugin, on a CUDA GPU.

import type { LoadedModel, WeightDtype } from '../model/index.js';
import { type AddonHost, cudaPluginPath, guarded, loadAddon, requireCuda } from './addon.js';
import { deviceName } from './device.js';
import type { Host, HostDtype, HostInfo } from './host.js';
import type { ReportProgress } from './start_progress.js';

export interface NativeHostOptions {
  model: Pick<LoadedModel, 'config' | 'tensors' | 'files'>;
  /** Of the KV cache and, but for 'float32', of the weights. The CPU has float32 and bfloat16, cuda bfloat16 and float16. */
  dtype: HostDtype;
  /** 0, with cuda alone: what its memory holds; the host's info says how many that is. */
  numBlocks: number;
  /** 8, 16, 32 or 64. */
  blockSize: number;
  maxNumSeqs: number;
  maxModelLen: number;
  maxNumBatchedTokens: number;
  /** 0 = one for each core this process may run on. */
  numThreads: number;
  /** Default: KADENZ_CPU_ISA, else the widest that this machine has. */
  isa?: 'scalar' | 'avx2' | 'avx512';
  /** null, the default: compute on the CPU. */
  cuda?: CudaOptions | null;
}

export interface CudaOptions {
  deviceIndex: number;
  /** Of the GPU's memory, for all that the engine takes there. */
  gpuMemoryUtilization: number;
  /** With numBlocks 0: more blocks than these are of no use. */
  mostBlocks: number;
  cudaGraphs: boolean;
  /** Matmuls pick their algorithm by the batch: for measuring what fixed sums cost. The bits then depend on the batch. */
  unrestrictedMatmul: boolean;
}

/** Raised by whoever changes the bits that native/cpu gives: traces recorded before then no longer execute to equal tokens. */
const NUMERICS = 1;

const DTYPE_NAMES: Record<WeightDtype, string> = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' };

/** What the fields for CUDA hold where the CPU computes: nobody looks. */
const NO_CUDA: CudaOptions = {
  deviceIndex: 0,
  gpuMemoryUtilization: 0,
  mostBlocks: 0,
  cudaGraphs: false,
  unrestrictedMatmul: false,
};

/**
 * Throws KadenzError: native_addon_missing, cuda_plugin_missing, cuda_unavailable, and what the host refuses (missing_tensor, wrong_shape,
 * out_of_memory, ...). `progress` is called before it returns.
 */
export function openHost(options: NativeHostOptions, progress: ReportProgress = () => {}): Host {
  return new NativeHost(options, progress);
}

class NativeHost implements Host {
  readonly #host: AddonHost;
  readonly #identity: Pick<HostInfo, 'device' | 'fingerprint' | 'numBlocks'>;

  constructor({ model, cuda = null, ...rest }: NativeHostOptions, progress: ReportProgress) {
    const { config, files } = model;
    const tensors = model.tensors.map((tensor) => ({ ...tensor, dtype: DTYPE_NAMES[tensor.dtype] }));
    const addon = loadAddon();
    if (cuda !== null) requireCuda(addon);
    const kind = cuda === null ? 'cpu' : 'cuda';
    this.#host = guarded(
      () =>
        new addon.NativeHost({
          ...{ ...rest, config, tensors, files, progress },
          ...{ ...(cuda ?? NO_CUDA), device: kind, pluginPath: cudaPluginPath() },
        }),
    );
    const { fingerprint, numBlocks = rest.numBlocks } = guarded(() => this.#host.info());
    if (cuda !== null && fingerprint === undefined) throw new Error('the CUDA host has no fingerprint');
    this.#identity = {
      device: deviceName({ kind, index: cuda?.deviceIndex ?? 0 }),
      fingerprint: fingerprint ?? `cpu x86-64 ${rest.dtype} numerics-${NUMERICS}`,
      numBlocks,
    };
  }

  get info(): HostInfo {
    const { isa, weightBytes, kvBytes, scratchBytes, ...rest } = guarded(() => this.#host.info());
    const info = { ...this.#identity, isa, weightBytes, kvBytes, scratchBytes };
    if (this.#identity.device === 'cpu') return info;
    return { ...info, gpuSteps: rest.gpuSteps, gpuBusyMs: rest.gpuBusyMs, gpuGapMs: rest.gpuGapMs };
  }

  submit(instruction: Uint8Array): void {
    guarded(() => this.#host.submit(instruction));
  }

  collect(): Uint8Array {
    return guarded(() => this.#host.collect());
  }

  close(): void {
    this.#host.close();
  }
}
