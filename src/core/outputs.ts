// Outputs and statistics off the wire as plain objects (schemas/output.fbs), for tests and tools: an object per entry.
// The engine reads the columns where they lie.

import * as wire from '../generated/index.js';
import type { MemoryTag } from './commands.js';
import { fromWide, messageBuffer } from './flat.js';
import { memoryTags } from './instructions.js';
import { type CodeName, codeName } from './results.js';

type Id = number | bigint;

export type FinishReasonName = 'stop' | 'length' | 'abort' | 'error';

export interface OutputObject {
  /** The committed instruction; 0 for what a command gave. */
  step: number;
  weightVersion: Id;
  tokens: { request: Id; sample: number; row: number; tokenId: number }[];
  /** Scores [first, first + count) of the result belong to the prompt positions from `position`. */
  scores: { request: Id; position: number; first: number; count: number }[];
  finishes: FinishObject[];
  starts: { request: Id; cachedTokens: number }[];
  /** Code 'none': carried out. */
  acks: { command: Id; code: CodeName; value: Id; limit: Id }[];
}

/** Samples [sample, sample + count) of a request ended. */
export interface FinishObject {
  request: Id;
  sample: number;
  count: number;
  reason: FinishReasonName;
  /** Reason 'stop': which token. */
  stopToken: number | null;
  /** Reason 'error': why, with the value that was refused and the limit it broke. */
  code: CodeName;
  value: Id;
  limit: Id;
  preemptions: number;
}

function finishReason(number: number): FinishReasonName {
  const name = wire.FinishReason[number];
  if (name === undefined || name === 'none')
    throw new Error(`a sample ended for the unknown reason ${number}`);
  return name as FinishReasonName;
}

/** @param bytes an Output that the core wrote */
export function decodeOutput(bytes: Uint8Array): OutputObject {
  const output = wire.Output.getRootAsOutput(messageBuffer(bytes));
  const [tokenSample, tokenRow, tokenId] = [
    output.tokenSampleArray(),
    output.tokenRowArray(),
    output.tokenIdArray(),
  ];
  const [scorePosition, scoreFirst, scoreCount] = [
    output.scorePositionArray(),
    output.scoreFirstArray(),
    output.scoreCountArray(),
  ];
  const cachedTokens = output.startCachedTokensArray();
  return {
    step: Number(output.step()),
    weightVersion: fromWide(output.weightVersion()),
    tokens: Array.from({ length: output.tokenRequestLength() }, (_, i) => ({
      request: fromWide(output.tokenRequest(i)!),
      sample: tokenSample![i]!,
      row: tokenRow![i]!,
      tokenId: tokenId![i]!,
    })),
    scores: Array.from({ length: output.scoreRequestLength() }, (_, i) => ({
      request: fromWide(output.scoreRequest(i)!),
      position: scorePosition![i]!,
      first: scoreFirst![i]!,
      count: scoreCount![i]!,
    })),
    finishes: Array.from({ length: output.finishRequestLength() }, (_, i) => decodeFinish(output, i)),
    starts: Array.from({ length: output.startRequestLength() }, (_, i) => ({
      request: fromWide(output.startRequest(i)!),
      cachedTokens: cachedTokens![i]!,
    })),
    acks: Array.from({ length: output.ackCommandLength() }, (_, i) => ({
      command: fromWide(output.ackCommand(i)!),
      code: codeName(output.ackCode(i)!),
      value: fromWide(output.ackValue(i)!),
      limit: fromWide(output.ackLimit(i)!),
    })),
  };
}

function decodeFinish(output: wire.Output, i: number): FinishObject {
  const reason = finishReason(output.finishReason(i)!);
  return {
    request: fromWide(output.finishRequest(i)!),
    sample: output.finishSample(i)!,
    count: output.finishCount(i)!,
    reason,
    stopToken: reason === 'stop' ? output.finishStopToken(i)! : null,
    code: codeName(output.finishCode(i)!),
    value: fromWide(output.finishValue(i)!),
    limit: fromWide(output.finishLimit(i)!),
    preemptions: output.finishPreemptions(i)!,
  };
}

/** schemas/output.fbs says what each counts. */
export interface StatsObject {
  step: number;
  numStepsInFlight: number;
  numRunning: number;
  numWaiting: number;
  numRequests: number;
  numBlocks: number;
  numFreeBlocks: number;
  numCachedBlocks: number;
  numHeldBlocks: number;
  numPreemptions: number;
  promptTokens: number;
  cachedPromptTokens: number;
  computedTokens: number;
  generationTokens: number;
  finishedSamples: number;
  weightVersion: Id;
  paused: boolean;
  updatingWeights: boolean;
  weightsUsable: boolean;
  released: MemoryTag[];
  shutDown: boolean;
  tokenHeapBytes: number;
  tokenHeapUsedBytes: number;
  digest: bigint;
}

/** @param bytes a Stats that the core wrote */
export function decodeStats(bytes: Uint8Array): StatsObject {
  const stats = wire.Stats.getRootAsStats(messageBuffer(bytes));
  return {
    step: Number(stats.step()),
    numStepsInFlight: stats.numStepsInFlight(),
    numRunning: stats.numRunning(),
    numWaiting: stats.numWaiting(),
    numRequests: stats.numRequests(),
    numBlocks: stats.numBlocks(),
    numFreeBlocks: stats.numFreeBlocks(),
    numCachedBlocks: stats.numCachedBlocks(),
    numHeldBlocks: stats.numHeldBlocks(),
    numPreemptions: Number(stats.numPreemptions()),
    promptTokens: Number(stats.promptTokens()),
    cachedPromptTokens: Number(stats.cachedPromptTokens()),
    computedTokens: Number(stats.computedTokens()),
    generationTokens: Number(stats.generationTokens()),
    finishedSamples: Number(stats.finishedSamples()),
    weightVersion: fromWide(stats.weightVersion()),
    paused: stats.paused(),
    updatingWeights: stats.updatingWeights(),
    weightsUsable: stats.weightsUsable(),
    released: memoryTags(stats.released()),
    shutDown: stats.shutDown(),
    tokenHeapBytes: Number(stats.tokenHeapBytes()),
    tokenHeapUsedBytes: Number(stats.tokenHeapUsedBytes()),
    digest: stats.digest(),
  };
}
