// Reads an Output, and the Result that it refers to, column by column: a sink gets numbers, no objects are made.
// Within one Output: requests start, tokens and scores arrive, samples finish, commands are acknowledged, in this order.

import * as flatbuffers from 'flatbuffers';
import { FinishReason, Output, Result } from '../generated/index.js';
import type * as types from './types.js';

export interface OutputSink {
  start(request: number, cachedTokens: number): void;
  /** `row` is the sample's entry in `columns`; null columns carry no log-probs. */
  token(
    event: { request: number; sample: number; tokenId: number; weightVersion: number },
    row: number,
  ): void;
  /** Entries [first, first + count) of the scores belong to the prompt positions from `position`. */
  scores(request: number, position: number, first: number, count: number): void;
  finish(finish: Finish): void;
  ack(ack: Ack): void;
}

export interface Finish {
  request: number;
  sample: number;
  count: number;
  reason: types.FinishReason;
  stopToken: number;
  code: number;
  value: bigint;
  limit: bigint;
  preemptions: number;
}

export interface Ack {
  command: number;
  /** 0 when it was carried out. */
  code: number;
  value: bigint;
  limit: bigint;
}

/** Log-probs of one Result: of its samples, or of its scores. Row r owns top entries [topEnd[r - 1], topEnd[r]). */
export interface LogprobColumns {
  logprob: Float32Array;
  rank: Uint32Array;
  topEnd: Uint32Array;
  topTokenIds: Int32Array;
  topLogprob: Float32Array;
}

export interface ResultColumns {
  samples: LogprobColumns;
  scores: LogprobColumns;
}

const NO_UINT32 = new Uint32Array(0);
const NO_INT32 = new Int32Array(0);
const NO_FLOAT32 = new Float32Array(0);

export function readResult(bytes: Uint8Array): ResultColumns {
  const result = Result.getRootAsResult(new flatbuffers.ByteBuffer(bytes));
  return {
    samples: {
      logprob: result.logprobArray() ?? NO_FLOAT32,
      rank: result.rankArray() ?? NO_UINT32,
      topEnd: result.topEndArray() ?? NO_UINT32,
      topTokenIds: result.topTokenIdsArray() ?? NO_INT32,
      topLogprob: result.topLogprobArray() ?? NO_FLOAT32,
    },
    scores: {
      logprob: result.scoreLogprobArray() ?? NO_FLOAT32,
      rank: result.scoreRankArray() ?? NO_UINT32,
      topEnd: result.scoreTopEndArray() ?? NO_UINT32,
      topTokenIds: result.scoreTopTokenIdsArray() ?? NO_INT32,
      topLogprob: result.scoreTopLogprobArray() ?? NO_FLOAT32,
    },
  };
}

const REASONS: Readonly<Record<number, types.FinishReason>> = {
  [FinishReason.stop]: 'stop',
  [FinishReason.length]: 'length',
  [FinishReason.abort]: 'abort',
  [FinishReason.error]: 'error',
};

export function readOutput(bytes: Uint8Array, sink: OutputSink): void {
  const output = Output.getRootAsOutput(new flatbuffers.ByteBuffer(bytes));
  for (let i = 0; i < output.startRequestLength(); i += 1) {
    sink.start(Number(output.startRequest(i)), output.startCachedTokens(i)!);
  }
  readTokens(output, sink);
  for (let i = 0; i < output.scoreRequestLength(); i += 1) {
    sink.scores(
      Number(output.scoreRequest(i)),
      output.scorePosition(i)!,
      output.scoreFirst(i)!,
      output.scoreCount(i)!,
    );
  }
  for (let i = 0; i < output.finishRequestLength(); i += 1) {
    const reason = REASONS[output.finishReason(i)!];
    if (reason === undefined) throw new Error(`an output names finish reason ${output.finishReason(i)}`);
    sink.finish({
      request: Number(output.finishRequest(i)),
      sample: output.finishSample(i)!,
      count: output.finishCount(i)!,
      reason,
      stopToken: output.finishStopToken(i)!,
      code: output.finishCode(i)!,
      value: output.finishValue(i)!,
      limit: output.finishLimit(i)!,
      preemptions: output.finishPreemptions(i)!,
    });
  }
  for (let i = 0; i < output.ackCommandLength(); i += 1) {
    sink.ack({
      command: Number(output.ackCommand(i)),
      code: output.ackCode(i)!,
      value: output.ackValue(i)!,
      limit: output.ackLimit(i)!,
    });
  }
}

function readTokens(output: Output, sink: OutputSink): void {
  const count = output.tokenRequestLength();
  if (count === 0) return;
  const samples = output.tokenSampleArray()!;
  const rows = output.tokenRowArray()!;
  const ids = output.tokenIdArray()!;
  const event = { request: 0, sample: 0, tokenId: 0, weightVersion: Number(output.weightVersion()) };
  for (let i = 0; i < count; i += 1) {
    event.request = Number(output.tokenRequest(i));
    event.sample = samples[i]!;
    event.tokenId = ids[i]!;
    sink.token(event, rows[i]!);
  }
}
