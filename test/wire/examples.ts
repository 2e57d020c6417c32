// The fixed content of the golden messages. One command for each kind of payload, and what AssemblyScript must read from it, word by
// word; one result, written both here and in native/test/wire_golden.cc.

import type { CommandBody } from '../../src/core/commands.js';
import type { ResultObject } from '../../src/core/results.js';

export const EXAMPLE_CONFIG = {
  maxNumSeqs: 16,
  maxNumBatchedTokens: 8192,
  maxModelLen: 4096,
  numBlocks: 1000,
  blockSize: 32,
  vocabSize: 151_936,
  maxNumRequests: 300,
  longPrefillTokenThreshold: 400,
  enablePrefixCache: true,
  maxStepsInFlight: 2,
  maxN: 64,
  maxLogprobs: 20,
  tokenHeapBytes: 2 ** 32,
  eosTokenIds: [151_643, 151_645],
};

export const EXAMPLE_CONFIG_WORDS = [
  0,
  1,
  16,
  8192,
  4096,
  1000,
  32,
  151_936,
  300,
  400,
  1,
  2,
  64,
  20,
  2 ** 32,
  2,
  151_643,
  151_645,
];

const bitsOf = (value: number): number => new Uint32Array(Float32Array.of(value).buffer)[0]!;
const wrapped = (value: number): number => value >>> 0;

/** Command id 7 for each; the words after the id are the payload's type and fields. */
export const EXAMPLE_COMMANDS: { name: string; command: CommandBody; words: (number | bigint)[] }[] = [
  {
    name: 'add_requests',
    command: {
      type: 'addRequests',
      requests: [
        { id: 1, promptTokenIds: [10, 11, 12] },
        {
          id: 2n ** 63n + 5n,
          promptTokenIds: Int32Array.of(7),
          n: 8,
          priority: -3,
          adapter: 4,
          cacheSalt: 2n ** 64n - 1n,
          seed: 2n ** 64n - 2n,
          temperature: 0.7,
          topP: 0.9,
          minP: 0.05,
          repetitionPenalty: 1.1,
          presencePenalty: -0.5,
          frequencyPenalty: 0.25,
          topK: 50,
          maxTokens: 1000,
          minTokens: 5,
          logprobs: 3,
          promptLogprobs: 0,
          logprobsMode: 'processed',
          ignoreEos: true,
          stopTokenIds: [42, 43],
          logitBias: new Map([
            [9, -100],
            [3, 1.5],
          ]),
        },
      ],
    },
    words: [
      ...[2, 2],
      ...[1, 3, 10, 11, 12, 1, 0, 0, 0],
      ...[1, 0, bitsOf(1), bitsOf(1), 0, bitsOf(1), 0, 0, 0, 16, 0, wrapped(-1), wrapped(-1), 0, 0],
      ...[0, 0, 0],
      ...[2n ** 63n + 5n, 1, 7, 8, wrapped(-3), 4, 2n ** 64n - 1n],
      ...[1, 2n ** 64n - 2n, bitsOf(0.7), bitsOf(0.9), bitsOf(0.05), bitsOf(1.1), bitsOf(-0.5), bitsOf(0.25)],
      ...[50, 1000, 5, 3, 0, 1, 1],
      ...[2, 42, 43, 2, 3, 9, 2, bitsOf(1.5), bitsOf(-100)],
    ],
  },
  {
    name: 'abort_requests',
    command: { type: 'abortRequests', requestIds: [3, 2n ** 53n + 1n], all: true },
    words: [3, 2, 3, 2n ** 53n + 1n, 1],
  },
  { name: 'pause_generation', command: { type: 'pauseGeneration', mode: 'retract' }, words: [4, 3] },
  { name: 'resume_generation', command: { type: 'resumeGeneration' }, words: [5] },
  { name: 'reset_prefix_cache', command: { type: 'resetPrefixCache', force: true }, words: [6, 1] },
  { name: 'begin_weight_update', command: { type: 'beginWeightUpdate' }, words: [7] },
  { name: 'finish_weight_update', command: { type: 'finishWeightUpdate', version: 12 }, words: [8, 12, 1] },
  {
    name: 'release_memory',
    command: { type: 'releaseMemory', tags: ['kv_cache', 'weights'], abortRunning: true },
    words: [9, 3, 1],
  },
  { name: 'resume_memory', command: { type: 'resumeMemory', tags: ['weights'] }, words: [10, 2] },
  // The one flag that flatc's TypeScript takes for the default of its field.
  { name: 'resume_kv_cache', command: { type: 'resumeMemory', tags: ['kv_cache'] }, words: [10, 1] },
  {
    name: 'load_adapter',
    command: { type: 'loadAdapter', adapter: 5, name: 'é', path: '/a' },
    words: [11, 5, 2, 0xc3, 0xa9, 2, 0x2f, 0x61],
  },
  { name: 'unload_adapter', command: { type: 'unloadAdapter', adapter: 5 }, words: [12, 5] },
  {
    name: 'set_parallel_groups',
    command: { type: 'setParallelGroups', tensorParallelSize: 2, dataParallelSize: 4, rank: 7 },
    words: [13, 2, 1, 4, 7],
  },
  { name: 'shutdown', command: { type: 'shutdown' }, words: [14] },
];

/** The same content as example_result() in native/test/wire_golden.cc. */
export const EXAMPLE_RESULT: Required<ResultObject> = {
  step: 2 ** 40,
  code: 'none',
  message: 'all is wéll',
  tokenIds: [5, -1, 2_147_483_647],
  rowCodes: ['none', 'nan_logits', 'none'],
  logprobs: [-0.5, -1.25, -0],
  ranks: [1, 0, 4_294_967_295],
  topEnds: [2, 2, 3],
  topTokenIds: [5, 6, 7],
  topLogprobs: [-0.5, -2, -3],
  scoreLogprobs: [-4.5],
  scoreRanks: [12],
  scoreTopEnds: [1],
  scoreTopTokenIds: [9],
  scoreTopLogprobs: [-0.125],
};

export const EXAMPLE_RESULT_WORDS: (number | bigint)[] = [
  ...[2 ** 40, 0, 12, ...Buffer.from('all is wéll', 'utf8')],
  ...[3, 5, wrapped(-1), 2_147_483_647],
  ...[3, 0, 71, 0],
  ...[3, bitsOf(-0.5), bitsOf(-1.25), bitsOf(-0)],
  ...[3, 1, 0, 4_294_967_295],
  ...[3, 2, 2, 3],
  ...[3, 5, 6, 7],
  ...[3, bitsOf(-0.5), bitsOf(-2), bitsOf(-3)],
  ...[1, bitsOf(-4.5)],
  ...[1, 12],
  ...[1, 1],
  ...[1, 9],
  ...[1, bitsOf(-0.125)],
];
