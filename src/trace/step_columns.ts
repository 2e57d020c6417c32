// Commits in a row, gathered in columns until they become one TraceSteps payload (schemas/trace.fbs says what each column means).

import * as flatbuffers from 'flatbuffers';
import { messageBuffer, putVector } from '../core/index.js';
import * as wire from '../generated/index.js';
import { alignedBytes, finishFrame } from './payload.js';

const STEP_BYTES = 24;

/** A column that grows. Its content is read with `used`, and gone with `clear`. */
class Column {
  #bytes = new Uint8Array(4096);
  #length = 0;

  get byteLength(): number {
    return this.#length;
  }

  /** Room for so many bytes more, to be written by the caller. */
  extend(count: number): Uint8Array {
    const end = this.#length + count;
    if (end > this.#bytes.byteLength) {
      const grown = new Uint8Array(Math.max(end, 2 * this.#bytes.byteLength));
      grown.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = grown;
    }
    const room = this.#bytes.subarray(this.#length, end);
    this.#length = end;
    return room;
  }

  append(bytes: Uint8Array): void {
    this.extend(bytes.byteLength).set(bytes);
  }

  /** Zeros up to a multiple of 8. */
  align(): void {
    this.extend(-this.#length & 7).fill(0);
  }

  words(): Uint32Array {
    return new Uint32Array(this.#bytes.buffer, 0, this.#length / 4);
  }

  used(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }

  clear(): void {
    this.#length = 0;
  }
}

export interface RecordedCommit {
  digest: bigint;
  plannedUs: number;
  committedUs: number;
  rounds: number;
  result: Uint8Array;
  plan: Uint8Array | null;
}

export class StepColumns {
  readonly #hasPlans: boolean;
  readonly #steps = new Column();
  readonly #tokenIds = new Column();
  readonly #logprobs = new Column();
  readonly #results = new Column();
  readonly #plans = new Column();
  #resultSteps: number[] = [];
  #resultEnds: number[] = [];
  #planEnds: number[] = [];
  #firstStep = 0n;
  #baseUs = 0;
  #count = 0;

  constructor(hasPlans: boolean) {
    this.#hasPlans = hasPlans;
  }

  get count(): number {
    return this.#count;
  }

  get baseUs(): number {
    return this.#baseUs;
  }

  get byteLength(): number {
    const columns = [this.#steps, this.#tokenIds, this.#logprobs, this.#results, this.#plans];
    return columns.reduce((sum, column) => sum + column.byteLength, 0);
  }

  begin(firstStep: bigint, baseUs: number): void {
    this.#firstStep = firstStep;
    this.#baseUs = baseUs;
  }

  add(commit: RecordedCommit): void {
    const numSamples = this.#addResult(commit.result);
    const room = this.#steps.extend(STEP_BYTES);
    const view = new DataView(room.buffer, room.byteOffset, STEP_BYTES);
    view.setBigUint64(0, commit.digest, true);
    view.setUint32(8, Math.max(0, commit.plannedUs - this.#baseUs), true);
    view.setUint32(12, commit.committedUs - this.#baseUs, true);
    view.setUint32(16, numSamples, true);
    view.setUint16(20, commit.rounds, true);
    view.setUint16(22, 0, true);
    this.#count += 1;
    if (!this.#hasPlans) return;
    this.#plans.align();
    this.#plans.append(commit.plan ?? new Uint8Array(0));
    this.#planEnds.push(this.#plans.byteLength);
  }

  /** The payload of what was gathered; nothing is left. */
  take(): Uint8Array {
    const builder = new flatbuffers.Builder(this.byteLength + 512);
    const { TraceSteps } = wire;
    const plans = alignedBytes(builder, this.#plans.used());
    const planEnds = putVector(builder, Uint32Array.from(this.#planEnds));
    const results = alignedBytes(builder, this.#results.used());
    const resultEnds = putVector(builder, Uint32Array.from(this.#resultEnds));
    const resultSteps = putVector(builder, Uint32Array.from(this.#resultSteps));
    const logprobs = putVector(builder, this.#logprobs.words());
    const tokenIds = putVector(builder, this.#tokenIds.words());
    builder.startVector(STEP_BYTES, this.#count, 8);
    const inner = builder as unknown as { space: number; bb: flatbuffers.ByteBuffer };
    inner.space -= this.#steps.byteLength;
    inner.bb.bytes().set(this.#steps.used(), inner.space);
    const steps = builder.endVector();
    TraceSteps.startTraceSteps(builder);
    TraceSteps.addFirstStep(builder, this.#firstStep);
    TraceSteps.addBaseUs(builder, BigInt(this.#baseUs));
    TraceSteps.addSteps(builder, steps);
    TraceSteps.addTokenIds(builder, tokenIds);
    TraceSteps.addLogprobs(builder, logprobs);
    TraceSteps.addResultStep(builder, resultSteps);
    TraceSteps.addResultEnd(builder, resultEnds);
    TraceSteps.addResults(builder, results);
    TraceSteps.addPlanEnd(builder, planEnds);
    TraceSteps.addPlans(builder, plans);
    const payload = finishFrame(builder, wire.TraceBody.TraceSteps, TraceSteps.endTraceSteps(builder));
    this.#clear();
    return payload;
  }

  /** Tokens and log-probs in their columns, or the whole Result. Gives how many samples the columns tell. */
  #addResult(bytes: Uint8Array): number {
    const result = wire.Result.getRootAsResult(messageBuffer(bytes));
    if (isSimple(result)) {
      appendWords(this.#tokenIds, result.tokenIdsArray());
      appendWords(this.#logprobs, result.logprobArray());
      return result.tokenIdsLength();
    }
    this.#results.align();
    this.#results.append(bytes);
    this.#resultSteps.push(this.#count);
    this.#resultEnds.push(this.#results.byteLength);
    return 0;
  }

  #clear(): void {
    for (const column of [this.#steps, this.#tokenIds, this.#logprobs, this.#results, this.#plans])
      column.clear();
    this.#resultSteps = [];
    this.#resultEnds = [];
    this.#planEnds = [];
    this.#count = 0;
  }
}

/** Whether token ids and log-probs are all that a Result says. */
function isSimple(result: wire.Result): boolean {
  return (
    result.code() === wire.ErrorCode.none &&
    result.rowCodeLength() === 0 &&
    result.scoreLogprobLength() === 0 &&
    result.topTokenIdsLength() === 0 &&
    result.logprobLength() === result.tokenIdsLength() &&
    isZero(result.rankArray()) &&
    isZero(result.topEndArray()) &&
    (result.message() ?? '') === ''
  );
}

let zeros = Buffer.alloc(4096);

/** By the runtime's own comparison: a loop over every rank of every step would be most of the recorder's time, above all while it is cold. */
function isZero(words: Uint32Array | null): boolean {
  if (words === null) return true;
  if (zeros.byteLength < words.byteLength) zeros = Buffer.alloc(2 * words.byteLength);
  const { buffer, byteOffset, byteLength } = words;
  return zeros.compare(new Uint8Array(buffer, byteOffset, byteLength), 0, byteLength, 0, byteLength) === 0;
}

function appendWords(column: Column, words: Int32Array | Float32Array | null): void {
  if (words !== null) column.append(new Uint8Array(words.buffer, words.byteOffset, words.byteLength));
}
