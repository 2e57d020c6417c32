// Results as plain objects, both ways (schemas/result.fbs). A host writes them; here tests and tools do.

import * as flatbuffers from 'flatbuffers';
import { KadenzError, type WireErrorName, wireErrorName } from '../errors.js';
import * as wire from '../generated/index.js';
import { finishMessage, type Integers, messageBuffer, putVector, tokenIds, uint32, uint64 } from './flat.js';
import type { InstructionObject, SampleObject } from './instructions.js';

export type CodeName = WireErrorName | 'none';
type Numbers = readonly number[] | Float32Array;

/** One entry per sample of the plan; then one per score. Columns left out are empty. */
export interface ResultObject {
  step: number;
  /** Default 'none'. Anything else: the whole instruction failed, and the columns are empty. */
  code?: CodeName;
  message?: string;
  tokenIds?: Integers;
  /** Empty: all well. */
  rowCodes?: readonly CodeName[];
  logprobs?: Numbers;
  ranks?: Integers;
  topEnds?: Integers;
  topTokenIds?: Integers;
  topLogprobs?: Numbers;
  scoreLogprobs?: Numbers;
  scoreRanks?: Integers;
  scoreTopEnds?: Integers;
  scoreTopTokenIds?: Integers;
  scoreTopLogprobs?: Numbers;
}

/**
 * A result that answers `instruction`: `tokenOf` gives the token of each sample; log-probs and ranks are 0.
 * For tests: it is what a host says that samples by a rule.
 */
export function resultFor(
  instruction: InstructionObject,
  tokenOf: (sample: SampleObject) => number = () => 0,
): ResultObject {
  if (instruction.type !== 'stepPlan') return { step: instruction.step };
  const { samples, scores } = instruction;
  const zeros = (length: number) => new Array<number>(length).fill(0);
  return {
    step: instruction.step,
    tokenIds: samples.map(tokenOf),
    logprobs: zeros(samples.length),
    ranks: zeros(samples.length),
    topEnds: zeros(samples.length),
    scoreLogprobs: zeros(scores.length),
    scoreRanks: zeros(scores.length),
    scoreTopEnds: zeros(scores.length),
  };
}

export function codeName(number: number): CodeName {
  if (number === 0) return 'none';
  const name = wireErrorName(number);
  if (name === undefined)
    throw new Error(`the wire carries error code ${number}, which this version does not know`);
  return name;
}

function codeNumber(name: CodeName): wire.ErrorCode {
  const number = wire.ErrorCode[name];
  if (number === undefined)
    throw new KadenzError('invalid_argument', `There is no error code '${name}' on the wire.`);
  return number;
}

/** Bytes of a result, in a buffer of their own. */
export function encodeResult(result: ResultObject): Uint8Array {
  const builder = new flatbuffers.Builder(1024);
  const signed = (values: Integers | undefined, name: string) =>
    putVector(builder, tokenIds(values ?? [], { code: 'invalid_argument', name: `the result's ${name}` }));
  const unsigned = (values: Integers | undefined, name: string) => {
    const origin = { code: 'invalid_argument', name: `the result's ${name}` } as const;
    return putVector(
      builder,
      Uint32Array.from(values ?? [], (value) => uint32(value, origin)),
    );
  };
  const floats = (values: Numbers | undefined) => putVector(builder, Float32Array.from(values ?? []));
  const message = builder.createString(result.message ?? '');
  const tokens = signed(result.tokenIds, 'tokenIds');
  const rowCodes = putVector(builder, Uint16Array.from(result.rowCodes ?? [], codeNumber));
  const logprobs = floats(result.logprobs);
  const ranks = unsigned(result.ranks, 'ranks');
  const topEnds = unsigned(result.topEnds, 'topEnds');
  const topTokenIds = signed(result.topTokenIds, 'topTokenIds');
  const topLogprobs = floats(result.topLogprobs);
  const scoreLogprobs = floats(result.scoreLogprobs);
  const scoreRanks = unsigned(result.scoreRanks, 'scoreRanks');
  const scoreTopEnds = unsigned(result.scoreTopEnds, 'scoreTopEnds');
  const scoreTopTokenIds = signed(result.scoreTopTokenIds, 'scoreTopTokenIds');
  const scoreTopLogprobs = floats(result.scoreTopLogprobs);
  const { Result } = wire;
  Result.startResult(builder);
  Result.addStep(builder, uint64(result.step, { code: 'invalid_argument', name: "the result's step" }));
  Result.addCode(builder, codeNumber(result.code ?? 'none'));
  Result.addMessage(builder, message);
  Result.addTokenIds(builder, tokens);
  Result.addRowCode(builder, rowCodes);
  Result.addLogprob(builder, logprobs);
  Result.addRank(builder, ranks);
  Result.addTopEnd(builder, topEnds);
  Result.addTopTokenIds(builder, topTokenIds);
  Result.addTopLogprob(builder, topLogprobs);
  Result.addScoreLogprob(builder, scoreLogprobs);
  Result.addScoreRank(builder, scoreRanks);
  Result.addScoreTopEnd(builder, scoreTopEnds);
  Result.addScoreTopTokenIds(builder, scoreTopTokenIds);
  Result.addScoreTopLogprob(builder, scoreTopLogprobs);
  return finishMessage(builder, Result.endResult(builder));
}

/** @param bytes a Result that our own host wrote, or that was verified */
export function decodeResult(bytes: Uint8Array): Required<ResultObject> {
  const result = wire.Result.getRootAsResult(messageBuffer(bytes));
  const list = (column: Int32Array | Uint32Array | Float32Array | null) =>
    column === null ? [] : Array.from(column);
  return {
    step: Number(result.step()),
    code: codeName(result.code()),
    message: result.message() ?? '',
    tokenIds: list(result.tokenIdsArray()),
    rowCodes: Array.from(result.rowCodeArray() ?? [], codeName),
    logprobs: list(result.logprobArray()),
    ranks: list(result.rankArray()),
    topEnds: list(result.topEndArray()),
    topTokenIds: list(result.topTokenIdsArray()),
    topLogprobs: list(result.topLogprobArray()),
    scoreLogprobs: list(result.scoreLogprobArray()),
    scoreRanks: list(result.scoreRankArray()),
    scoreTopEnds: list(result.scoreTopEndArray()),
    scoreTopTokenIds: list(result.scoreTopTokenIdsArray()),
    scoreTopLogprobs: list(result.scoreTopLogprobArray()),
  };
}
