// An Output's columns where they lie in the core's memory: views, valid until the next call.

import * as flatbuffers from 'flatbuffers';
import { type ErrorCode, FinishReason, Output } from '../generated/index.js';

export interface FinishView {
  request: number;
  sample: number;
  count: number;
  reason: FinishReason;
  stopToken: number;
  code: ErrorCode;
}

export interface OutputView {
  output: Output;
  step: number;
  weightVersion: number;
  numTokens: number;
  finishes: FinishView[];
}

const NO_FINISHES: FinishView[] = [];

export function viewOutput(bytes: Uint8Array): OutputView {
  const output = Output.getRootAsOutput(new flatbuffers.ByteBuffer(bytes));
  const numFinishes = output.finishRequestLength();
  const finishes =
    numFinishes === 0 ? NO_FINISHES : Array.from({ length: numFinishes }, (_, i) => finishAt(output, i));
  return {
    output,
    step: Number(output.step()),
    weightVersion: Number(output.weightVersion()),
    numTokens: output.tokenRequestLength(),
    finishes,
  };
}

function finishAt(output: Output, i: number): FinishView {
  return {
    request: Number(output.finishRequest(i)!),
    sample: output.finishSample(i)!,
    count: output.finishCount(i)!,
    reason: output.finishReason(i)!,
    stopToken: output.finishStopToken(i)!,
    code: output.finishCode(i)!,
  };
}

export function describeFinish({ request, sample, count, reason, stopToken, code }: FinishView): string {
  const samples = count === 1 ? `sample ${sample}` : `samples ${sample} to ${sample + count - 1}`;
  const why =
    reason === FinishReason.error ? ` (code ${code})` : reason === FinishReason.stop ? ` ${stopToken}` : '';
  return `${samples} of request ${request}: ${FinishReason[reason]}${why}`;
}
