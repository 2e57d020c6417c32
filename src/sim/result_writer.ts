// Bytes of a Result, as a host writes it: one builder, used again for every step.

import * as flatbuffers from 'flatbuffers';
import { finishMessage, putVector } from '../core/flat.js';
import { ErrorCode, Result } from '../generated/index.js';
import type { Answer } from './checkers/delivery.js';

const NO_TOKENS = new Int32Array(0);
const NO_FLOATS = new Float32Array(0);

/** What answers a control instruction, or a step that failed as a whole. */
export function emptyAnswer(code: ErrorCode): Answer {
  return { code, tokenIds: NO_TOKENS, logprobs: NO_FLOATS, rowCodes: [] };
}

export class ResultWriter {
  readonly #builder = new flatbuffers.Builder(1024);
  /** Ranks and ends of what nobody asked for: all zero. */
  #zeros = new Uint32Array(64);
  #zeroFloats = new Float32Array(64);

  write(step: number, answer: Answer, numScores: number): Uint8Array {
    const builder = this.#builder;
    builder.clear();
    const hasFailed = answer.code !== ErrorCode.none;
    const count = hasFailed ? 0 : answer.tokenIds.length;
    const scores = hasFailed ? 0 : numScores;
    const message = hasFailed ? builder.createString('the simulated device failed') : 0;
    const tokenIds = putVector(builder, hasFailed ? NO_TOKENS : answer.tokenIds);
    const logprobs = putVector(builder, hasFailed ? NO_FLOATS : answer.logprobs);
    const rowCodes = putVector(builder, Uint16Array.from(hasFailed ? [] : answer.rowCodes));
    const ranks = putVector(builder, this.#words(count));
    const topEnds = putVector(builder, this.#words(count));
    const scoreLogprobs = putVector(builder, this.#floats(scores));
    const scoreRanks = putVector(builder, this.#words(scores));
    const scoreTopEnds = putVector(builder, this.#words(scores));
    Result.startResult(builder);
    Result.addStep(builder, BigInt(step));
    Result.addCode(builder, answer.code);
    if (hasFailed) Result.addMessage(builder, message);
    Result.addTokenIds(builder, tokenIds);
    Result.addLogprob(builder, logprobs);
    Result.addRowCode(builder, rowCodes);
    Result.addRank(builder, ranks);
    Result.addTopEnd(builder, topEnds);
    Result.addScoreLogprob(builder, scoreLogprobs);
    Result.addScoreRank(builder, scoreRanks);
    Result.addScoreTopEnd(builder, scoreTopEnds);
    return finishMessage(builder, Result.endResult(builder));
  }

  #words(count: number): Uint32Array {
    if (this.#zeros.length < count) this.#zeros = new Uint32Array(count);
    return this.#zeros.subarray(0, count);
  }

  #floats(count: number): Float32Array {
    if (this.#zeroFloats.length < count) this.#zeroFloats = new Float32Array(count);
    return this.#zeroFloats.subarray(0, count);
  }
}
