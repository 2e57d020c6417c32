// Steps off a TraceSteps payload, one event each, with their Results made whole again.

import * as flatbuffers from 'flatbuffers';
import { finishMessage, putVector } from '../core/index.js';
import * as wire from '../generated/index.js';

export interface StepEvent {
  kind: 'step';
  step: number;
  /** Of all instructions up to this one, chained. */
  digest: bigint;
  /** When it was scheduled and when its result was there, since the recording began. */
  plannedUs: number;
  committedUs: number;
  /** How often, since the event before, schedule was called until it gave nothing. */
  rounds: number;
  /** The Result that was committed; the core verifies it when it takes it. */
  result: Uint8Array;
  /** The Instruction, not verified, where the trace has plans. */
  plan: Uint8Array | null;
}

/** @param table has been verified (verify.ts) */
export function* readSteps(table: wire.TraceSteps): Generator<StepEvent, void> {
  const tokenIds = table.tokenIdsArray() ?? new Int32Array(0);
  const logprobs = table.logprobsArray() ?? new Float32Array(0);
  const results = table.resultsArray() ?? new Uint8Array(0);
  const plans = table.plansArray();
  const firstStep = Number(table.firstStep());
  const baseUs = Number(table.baseUs());
  const entry = new wire.TraceStep();
  let firstToken = 0;
  let nextResult = 0;
  for (let i = 0; i < table.stepsLength(); i += 1) {
    table.steps(i, entry);
    const step = firstStep + i;
    const endToken = firstToken + entry.numSamples();
    const isWhole = nextResult < table.resultStepLength() && table.resultStep(nextResult) === i;
    const result = isWhole
      ? part(results, nextResult === 0 ? 0 : table.resultEnd(nextResult - 1)!, table.resultEnd(nextResult)!)
      : simpleResult(step, tokenIds.subarray(firstToken, endToken), logprobs.subarray(firstToken, endToken));
    if (isWhole) nextResult += 1;
    firstToken = endToken;
    yield {
      kind: 'step',
      step,
      digest: entry.digest(),
      plannedUs: baseUs + entry.plannedUs(),
      committedUs: baseUs + entry.committedUs(),
      rounds: entry.rounds(),
      result,
      plan:
        plans === null || table.planEndLength() === 0
          ? null
          : part(plans, i === 0 ? 0 : table.planEnd(i - 1)!, table.planEnd(i)!),
    };
  }
}

/** Messages lie one after the other, each at a multiple of 8. */
function part(bytes: Uint8Array, previousEnd: number, end: number): Uint8Array {
  return bytes.subarray(Math.ceil(previousEnd / 8) * 8, end);
}

/** The Result of a step that says nothing but tokens and their log-probs. */
function simpleResult(step: number, tokenIds: Int32Array, logprobs: Float32Array): Uint8Array {
  const builder = new flatbuffers.Builder(256 + 16 * tokenIds.length);
  const { Result } = wire;
  const zeros = new Uint32Array(tokenIds.length);
  const topEnd = putVector(builder, zeros);
  const rank = putVector(builder, zeros);
  const logprob = putVector(builder, logprobs);
  const tokens = putVector(builder, tokenIds);
  Result.startResult(builder);
  Result.addStep(builder, BigInt(step));
  Result.addTokenIds(builder, tokens);
  Result.addLogprob(builder, logprob);
  Result.addRank(builder, rank);
  Result.addTopEnd(builder, topEnd);
  return finishMessage(builder, Result.endResult(builder));
}
