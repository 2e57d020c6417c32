// The native host: kadenz.node, loaded when a host is opened and not before.

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { KadenzError, type KadenzErrorCode } from '../errors.js';
import type { LoadedModel, ModelConfig, WeightDtype } from '../model/index.js';
import type { Host, HostInfo } from './host.js';

export interface NativeHostOptions {
  model: Pick<LoadedModel, 'config' | 'tensors' | 'files'>;
  /** Of the KV cache; 'bfloat16' rounds the weights as well. */
  dtype: 'float32' | 'bfloat16';
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
}

interface Addon {
  NativeHost: new (options: AddonOptions) => AddonHost;
}

interface AddonHost {
  submit(instruction: Uint8Array): void;
  collect(): Uint8Array;
  info(): Omit<HostInfo, 'device' | 'fingerprint'>;
  close(): void;
}

type AddonOptions = Omit<NativeHostOptions, 'model'> & {
  config: ModelConfig;
  tensors: object[];
  files: string[];
};

/** Raised by whoever changes the bits that native/cpu gives: traces recorded before then no longer execute to equal tokens. */
const NUMERICS = 1;

const ADDON_PATH = fileURLToPath(new URL('../../build/native/Release/kadenz.node', import.meta.url));

const DTYPE_NAMES: Record<WeightDtype, string> = { F32: 'float32', F16: 'float16', BF16: 'bfloat16' };

/** Throws KadenzError: native_addon_missing, and what the host refuses (missing_tensor, wrong_shape, out_of_memory, ...). */
export function openHost(options: NativeHostOptions): Host {
  return new NativeHost(options);
}

class NativeHost implements Host {
  readonly #host: AddonHost;
  readonly #fingerprint: string;

  constructor({ model, ...rest }: NativeHostOptions) {
    const { config, files } = model;
    const tensors = model.tensors.map((tensor) => ({ ...tensor, dtype: DTYPE_NAMES[tensor.dtype] }));
    this.#fingerprint = `cpu x86-64 ${rest.dtype} numerics-${NUMERICS}`;
    const { NativeHost: AddonClass } = loadAddon();
    this.#host = guarded(() => new AddonClass({ ...rest, config, tensors, files }));
  }

  get info(): HostInfo {
    return { device: 'cpu', fingerprint: this.#fingerprint, ...guarded(() => this.#host.info()) };
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

function loadAddon(): Addon {
  if (!existsSync(ADDON_PATH)) {
    throw new KadenzError(
      'native_addon_missing',
      `${ADDON_PATH} is missing; build it with \`npm run build:native\`.`,
      {
        path: ADDON_PATH,
      },
    );
  }
  return createRequire(import.meta.url)(ADDON_PATH) as Addon;
}

/** The addon throws Errors with a `code` for what a caller or the world got wrong; anything else is a fault and stays as it is. */
function guarded<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    const { code, message } = error as { code?: unknown; message: string };
    if (typeof code === 'string') throw new KadenzError(code as KadenzErrorCode, message);
    throw error;
  }
}
