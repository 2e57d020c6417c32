// Flags that commands share, and what they mean for the engine.

import { type Command, InvalidArgumentError, Option } from 'commander';
import {
  type Device,
  type EngineOptions,
  type HostDtype,
  KadenzError,
  type RecordOptions,
} from '../index.js';
import { LOG_LEVELS, type LogLevel } from './progress.js';

export interface EngineFlags {
  model: string;
  device: Device;
  dtype: 'auto' | HostDtype;
  maxNumSeqs?: number;
  maxNumBatchedTokens?: number;
  maxModelLen?: number;
  maxNumRequests?: number;
  kvCacheBlocks?: number;
  gpuMemoryUtilization?: number;
  cudaGraphs: boolean;
  blockSize?: number;
  longPrefillTokenThreshold?: number;
  prefixCache: boolean;
  threads?: number;
  record?: string;
  recordPlans?: boolean;
  recordCompression?: 'none' | 'zstd';
  output?: string;
  logLevel?: LogLevel;
}

/** A number, as JavaScript reads it; whether it makes sense is the engine's to say. */
export function numberFlag(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || (Number.isNaN(value) && text.toLowerCase() !== 'nan'))
    throw new InvalidArgumentError('It must be a number.');
  return value;
}

export function wideFlag(text: string): bigint {
  if (!/^\d{1,20}$/.test(text))
    throw new InvalidArgumentError('It must be a whole number from 0 to 2^64 - 1.');
  return BigInt(text);
}

export function idListFlag(text: string): number[] {
  return text.split(',').map((id) => {
    if (!/^\s*\d{1,10}\s*$/.test(id))
      throw new InvalidArgumentError('It must be token ids with commas between them, such as 2,15.');
    return Number(id);
  });
}

export function addEngineFlags(command: Command): Command {
  return command
    .requiredOption('--model <dir>', 'Hugging Face model directory')
    .option('--device <name>', 'where to compute: cpu, cuda, or cuda:1 and so on', 'cpu')
    .addOption(
      new Option('--dtype <type>', 'of weights and KV cache; auto: as the checkpoint')
        .choices(['auto', 'float32', 'bfloat16', 'float16'])
        .default('auto'),
    )
    .option('--max-num-seqs <n>', 'sequences running at once (default: 256)', numberFlag)
    .option(
      '--max-num-batched-tokens <n>',
      'tokens computed in one step (default: 2048; cuda: 8192)',
      numberFlag,
    )
    .option('--max-model-len <n>', "prompt and output together (default: the model's)", numberFlag)
    .option('--max-num-requests <n>', 'requests that the scheduler holds at once (default: 1024)', numberFlag)
    .option(
      '--kv-cache-blocks <n>',
      'blocks of the KV cache (default: what 2 GiB or a quarter of the memory holds; cuda: what is left of the GPU)',
      numberFlag,
    )
    .option(
      '--gpu-memory-utilization <x>',
      "with cuda: of the GPU's memory, for all that the engine takes there (default: 0.9)",
      numberFlag,
    )
    .option('--no-cuda-graphs', 'with cuda: launch each kernel of a decode step; slower, equal bits')
    .option('--block-size <n>', 'tokens in a KV block (default: 16)', numberFlag)
    .option(
      '--long-prefill-token-threshold <n>',
      'most prompt tokens of one sequence in one step; 0: no cap (default: 0)',
      numberFlag,
    )
    .option('--no-prefix-cache', 'compute every prompt anew')
    .option('--threads <n>', 'threads to compute with (default: all processors)', numberFlag)
    .option('--record <file>', 'record the run; kadenz replay and kadenz trace read it')
    .option('--record-plans', 'with every instruction, so that a replay can name the field that differs')
    .addOption(
      new Option('--record-compression <codec>', 'of the recording (default: none)').choices([
        'none',
        'zstd',
      ]),
    )
    .option('--output <file>', 'write results here instead of to standard output')
    .addOption(
      new Option(
        '--log-level <level>',
        'of the log on standard error (default: info; warn on a terminal)',
      ).choices(LOG_LEVELS),
    );
}

export function engineOptionsOf(flags: EngineFlags): EngineOptions {
  const given = {
    maxNumSeqs: flags.maxNumSeqs,
    maxNumBatchedTokens: flags.maxNumBatchedTokens,
    maxModelLen: flags.maxModelLen,
    maxNumRequests: flags.maxNumRequests,
    kvCacheBlocks: flags.kvCacheBlocks,
    gpuMemoryUtilization: flags.gpuMemoryUtilization,
    enableCudaGraphs: flags.cudaGraphs ? undefined : false,
    blockSize: flags.blockSize,
    longPrefillTokenThreshold: flags.longPrefillTokenThreshold,
    numThreads: flags.threads,
    record: recordOf(flags),
  };
  return {
    model: flags.model,
    device: flags.device,
    dtype: flags.dtype,
    enablePrefixCaching: flags.prefixCache,
    ...withoutUndefined(given),
  };
}

function recordOf(flags: EngineFlags): RecordOptions | undefined {
  const { record, recordPlans, recordCompression } = flags;
  if (record !== undefined)
    return { path: record, ...withoutUndefined({ plans: recordPlans, compression: recordCompression }) };
  if (recordPlans === undefined && recordCompression === undefined) return undefined;
  throw new KadenzError('invalid_argument', '--record-plans and --record-compression need --record FILE.');
}

type Defined<T> = { [K in keyof T]?: Exclude<T[K], undefined> };

export function withoutUndefined<T extends object>(fields: T): Defined<T> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Defined<T>;
}
