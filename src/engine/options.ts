// The options of an engine, and what they come to for a given model: the core's configuration and the host's.
//
// maxModelLen is the model's own unless given, and at most what the whole KV pool (kv_pool.ts) holds. Where the host is to size the
// pool, numBlocks is 0 in both configurations: the worker puts in what the host has, once it is open.

import { availableParallelism } from 'node:os';
import type { CoreConfig } from '../core/index.js';
import { KadenzError } from '../errors.js';
import { type Device, type DeviceKind, parseDevice } from '../host/device.js';
import type { HostDtype } from '../host/host.js';
import type { CudaOptions, NativeHostOptions } from '../host/native_host.js';
import type { StartProgress } from '../host/start_progress.js';
import type { LoadedModel } from '../model/index.js';
import { sizeKvPool } from './kv_pool.js';
import { count } from './numbers.js';
import { checkRecordOptions, type RecordOptions } from './recording.js';
import { uint64 } from './request.js';

export interface EngineOptions {
  /** A Hugging Face model directory. */
  model: string;
  /** Where to compute: 'cpu', the default, 'cuda', or 'cuda:1' and so on for one GPU of several. */
  device?: Device;
  /**
   * Of weights and KV cache; sums are always float32. The CPU has float32 and bfloat16, a GPU bfloat16 and float16. Default 'auto': as the
   * checkpoint is, else float32 on the CPU and bfloat16 on a GPU.
   */
  dtype?: 'auto' | HostDtype;
  /** Sequences running at once. Default 256. */
  maxNumSeqs?: number;
  /** Tokens computed in one step. Default 2048, on a GPU 8192. */
  maxNumBatchedTokens?: number;
  /** Prompt and output of one sequence together. Default: the model's, as far as the KV cache holds it. */
  maxModelLen?: number;
  /** Requests that the scheduler holds at once; further ones queue in the engine. Default 1024. */
  maxNumRequests?: number;
  /** KV blocks of the pool. Default: from kvCacheBytes. */
  kvCacheBlocks?: number;
  /**
   * Memory for the KV cache, unless kvCacheBlocks is given. Default: 2 GiB, or a quarter of the machine's memory if that is less; on a
   * GPU what gpuMemoryUtilization leaves.
   */
  kvCacheBytes?: number;
  /** Of a GPU's memory, for weights, KV cache and workspace together: greater than 0, at most 1. Default 0.9. For device 'cuda'. */
  gpuMemoryUtilization?: number;
  /** Record decode steps once, at start, and replay them: the bits are the same without. Default true. For device 'cuda'. */
  enableCudaGraphs?: boolean;
  /**
   * Matmuls pick their algorithm by the batch, so the bits of a sample depend on what runs beside it. Only for measuring what fixed sums
   * cost; such a run is not recorded. Default false. For device 'cuda'.
   */
  unrestrictedMatmul?: boolean;
  /** Tokens in a KV block: a power of two from 8 to 64. Default 16. */
  blockSize?: number;
  /** Default true. */
  enablePrefixCaching?: boolean;
  /** Most prompt tokens of one sequence in one step. Default 0: no cap. */
  longPrefillTokenThreshold?: number;
  /** Most samples of one request. Default 1024. */
  maxN?: number;
  /** Most log-probs beside a token. Default 20. */
  maxLogprobs?: number;
  /** Threads of the host. Default: the processors that this process may use. */
  numThreads?: number;
  /** Requests without a seed get theirs from it. Default 0. */
  seed?: number | bigint;
  /** Record the run to this trace (docs/trace-format.md); replay it with `kadenz replay`. Default: not recorded. */
  record?: string | RecordOptions;
  /** Is told when the engine starts, ends or dies. pino and console both fit. */
  logger?: EngineLogger;
  /** Is told how far the start is: weights loaded, CUDA graphs captured. */
  onProgress?: (progress: StartProgress) => void;
}

export interface EngineLogger {
  info(message: string): void;
  error(message: string): void;
}

/** What the host is opened with; a structured clone of it goes to the worker. */
export interface HostOptions extends Omit<NativeHostOptions, 'isa'> {
  model: LoadedModel;
  cuda: CudaOptions | null;
}

export interface EngineSetup {
  /** numBlocks 0: as many as the host has. */
  coreConfig: CoreConfig & { maxModelLen: number; maxNumRequests: number; maxN: number };
  hostOptions: HostOptions;
  /** With numBlocks 0: maxModelLen is nobody's wish, so it shrinks to what the host's blocks hold. */
  fitModelLen: boolean;
  seed: bigint;
}

const OPTION_NAMES: ReadonlySet<string> = new Set([
  ...['model', 'device', 'dtype', 'maxNumSeqs', 'maxNumBatchedTokens', 'maxModelLen', 'maxNumRequests'],
  ...['kvCacheBlocks', 'kvCacheBytes', 'gpuMemoryUtilization', 'enableCudaGraphs', 'unrestrictedMatmul'],
  ...['blockSize', 'enablePrefixCaching', 'longPrefillTokenThreshold', 'maxN', 'maxLogprobs'],
  ...['numThreads', 'seed', 'record', 'logger', 'onProgress'],
]);

export const GPU_MEMORY_UTILIZATION_DEFAULT = 0.9;

const CUDA_OPTION_NAMES = ['gpuMemoryUtilization', 'enableCudaGraphs', 'unrestrictedMatmul'] as const;

/** What each kind of device computes in. */
const DTYPES: Readonly<Record<DeviceKind, readonly HostDtype[]>> = {
  cpu: ['float32', 'bfloat16'],
  cuda: ['bfloat16', 'float16'],
};

/** Refuses unknown names and wrong kinds, before anything is loaded. */
export function checkEngineOptions(options: EngineOptions): void {
  for (const name of Object.keys(options)) {
    if (OPTION_NAMES.has(name)) continue;
    const sentence = `An engine has no option '${name}'; it has ${[...OPTION_NAMES].join(', ')}.`;
    throw new KadenzError('unknown_option', sentence, { value: name });
  }
  if (typeof options.model !== 'string' || options.model === '') {
    throw new KadenzError(
      'invalid_argument',
      'An engine needs a model: the path of a Hugging Face model directory.',
    );
  }
  if (options.record !== undefined) checkRecordOptions(options.record);
  const { kind } = parseDevice(options.device ?? 'cpu');
  const { dtype = 'auto' } = options;
  if (!['auto', 'float32', 'bfloat16', 'float16'].includes(dtype)) {
    const sentence = `dtype is '${dtype}'; it must be 'auto', 'float32', 'bfloat16' or 'float16'.`;
    throw new KadenzError('invalid_argument', sentence, { value: dtype });
  }
  if (dtype !== 'auto') requireDtype(kind, dtype);
  if (kind === 'cuda') checkCudaOptions(options);
  else refuseCudaOptions(options);
}

/** Throws unsupported_dtype. */
function requireDtype(kind: DeviceKind, dtype: HostDtype): void {
  if (DTYPES[kind].includes(dtype)) return;
  const others = DTYPES[kind].map((name) => `'${name}'`).join(' or ');
  const other = kind === 'cpu' ? 'cuda' : 'cpu';
  const sentence = `dtype is '${dtype}'; device '${kind}' holds weights and KV cache in ${others}. Choose one of them, or device '${other}'.`;
  throw new KadenzError('unsupported_dtype', sentence, { value: dtype, limit: DTYPES[kind] });
}

function checkCudaOptions({
  gpuMemoryUtilization,
  enableCudaGraphs,
  unrestrictedMatmul,
  record,
}: EngineOptions): void {
  const share: unknown = gpuMemoryUtilization ?? 1;
  if (typeof share !== 'number' || !(share > 0 && share <= 1)) {
    const sentence = `gpuMemoryUtilization is ${String(share)}; it must be greater than 0 and at most 1, as in 0.9.`;
    throw new KadenzError('invalid_argument', sentence, { value: share, limit: 1 });
  }
  for (const [name, value] of Object.entries({ enableCudaGraphs, unrestrictedMatmul })) {
    if (value === undefined || typeof value === 'boolean') continue;
    const sentence = `${name} is ${String(value)}; it must be true or false.`;
    throw new KadenzError('invalid_argument', sentence, { value });
  }
  if (unrestrictedMatmul === true && record !== undefined) {
    const sentence =
      "A run with unrestrictedMatmul can't be repeated bit by bit, so it is not recorded: leave out one of the two.";
    throw new KadenzError('invalid_argument', sentence);
  }
}

function refuseCudaOptions(options: EngineOptions): void {
  for (const name of CUDA_OPTION_NAMES) {
    if (options[name] === undefined) continue;
    const sentence = `${name} is for device 'cuda'; device 'cpu' has no use for it. Leave it out, or choose device 'cuda'.`;
    throw new KadenzError('invalid_argument', sentence, { value: options[name] });
  }
}

export function resolveEngineOptions(options: EngineOptions, model: LoadedModel): EngineSetup {
  const { config } = model;
  const { kind, index } = parseDevice(options.device ?? 'cpu');
  const dtype = resolveDtype(kind, options.dtype ?? 'auto', model);
  const blockSize = count(options.blockSize ?? 16, 'blockSize', 1);
  const maxNumSeqs = count(options.maxNumSeqs ?? 256, 'maxNumSeqs', 1);
  const wantedModelLen = count(options.maxModelLen ?? config.maxPositionEmbeddings, 'maxModelLen', 1);
  if (wantedModelLen > config.maxPositionEmbeddings) {
    throw new KadenzError(
      'invalid_argument',
      `maxModelLen is ${wantedModelLen}; this model was made for at most ${config.maxPositionEmbeddings} positions.`,
      { value: wantedModelLen, limit: config.maxPositionEmbeddings },
    );
  }
  const shape = { config, kind, dtype, blockSize, maxNumSeqs, maxModelLen: wantedModelLen };
  const { numBlocks, mostBlocks } = sizeKvPool(options, shape);
  const fitModelLen = options.maxModelLen === undefined;
  const maxModelLen =
    fitModelLen && numBlocks > 0 ? Math.min(wantedModelLen, numBlocks * blockSize) : wantedModelLen;
  const tokensDefault = kind === 'cuda' ? 8192 : 2048;
  const maxNumBatchedTokens = count(options.maxNumBatchedTokens ?? tokensDefault, 'maxNumBatchedTokens', 1);
  const cuda: CudaOptions | null =
    kind === 'cpu' ? null : { ...cudaOptionsOf(options), deviceIndex: index, mostBlocks };
  return {
    coreConfig: {
      maxNumSeqs,
      maxNumBatchedTokens,
      maxModelLen,
      numBlocks,
      blockSize,
      vocabSize: config.vocabSize,
      maxNumRequests: count(options.maxNumRequests ?? 1024, 'maxNumRequests', 1),
      longPrefillTokenThreshold: count(
        options.longPrefillTokenThreshold ?? 0,
        'longPrefillTokenThreshold',
        0,
      ),
      enablePrefixCache: options.enablePrefixCaching ?? true,
      maxStepsInFlight: 2,
      maxN: count(options.maxN ?? 1024, 'maxN', 1),
      maxLogprobs: count(options.maxLogprobs ?? 20, 'maxLogprobs', 0),
      eosTokenIds: model.eosTokenIds,
    },
    hostOptions: {
      model,
      dtype,
      numBlocks,
      blockSize,
      maxNumSeqs,
      maxModelLen,
      maxNumBatchedTokens,
      numThreads: count(options.numThreads ?? availableParallelism(), 'numThreads', 1),
      cuda,
    },
    fitModelLen,
    seed: uint64(options.seed ?? 0, 'seed'),
  };
}

function cudaOptionsOf({
  gpuMemoryUtilization = GPU_MEMORY_UTILIZATION_DEFAULT,
  enableCudaGraphs = true,
  unrestrictedMatmul = false,
}: EngineOptions): Pick<CudaOptions, 'gpuMemoryUtilization' | 'cudaGraphs' | 'unrestrictedMatmul'> {
  return { gpuMemoryUtilization, cudaGraphs: enableCudaGraphs, unrestrictedMatmul };
}

function resolveDtype(kind: DeviceKind, dtype: 'auto' | HostDtype, { tensors }: LoadedModel): HostDtype {
  if (dtype !== 'auto') return dtype;
  if (tensors.some((tensor) => tensor.dtype === 'BF16')) return 'bfloat16';
  if (kind === 'cpu') return 'float32';
  return tensors.some((tensor) => tensor.dtype === 'F16') ? 'float16' : 'bfloat16';
}
