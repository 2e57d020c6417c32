// A host that computes nothing: it reads what a step would cost and answers at once, until a sample's drawn length is reached with a
// token that tells it from the other samples (equal samples would find each other's blocks in the prefix cache, which real
// ones never do), then with EOS.
//
// `submit` reads an instruction's columns where they lie and keeps what its result needs; `result` gives the bytes of the oldest one's
// Result. These come from one template for each number of samples, patched in place: building a Result anew costs more than the core's
// whole step. The bytes are valid until the next call of `result`.

import * as flatbuffers from 'flatbuffers';
import { encodeResult } from '../../core/index.js';
import { Instruction, Result, SamplingParams, StepPlan, Work } from '../../generated/index.js';
import { stepTimeUs } from '../cost_model.js';
import { EOS_TOKEN, FIRST_OUTPUT_TOKEN, type Group, type PlanCase } from './workload.js';

export interface SubmittedStep {
  step: number;
  timeUs: number;
  numRows: number;
  numSequences: number;
  /** What it samples. Overwritten once two more steps have been submitted. */
  tokenIds: Int32Array;
}

/** The core's default. */
const STEPS_IN_FLIGHT = 2;

interface ResultTemplate {
  bytes: Uint8Array;
  view: DataView;
  stepAt: number;
  tokenIds: Int32Array;
}

export class PlanHost {
  readonly #plan: PlanCase;
  /** By request id less one. */
  readonly #groups: readonly Group[];
  /** For each slot, the position of the token that ends its sequence. */
  readonly #lastPosition: Float64Array;
  /** For each slot, what its sequence samples until then. */
  readonly #token: Int32Array;
  /** Taken in turn by the steps, of which at most two are in flight. */
  readonly #sampled: readonly Int32Array[];
  readonly #inFlight: SubmittedStep[] = [];
  readonly #templates = new Map<number, ResultTemplate>();
  readonly #params = new SamplingParams();
  #rowPositions = new Uint32Array(0);

  constructor(plan: PlanCase, groups: readonly Group[]) {
    this.#plan = plan;
    this.#groups = groups;
    const { maxNumSeqs } = plan.scheduler;
    this.#lastPosition = new Float64Array(maxNumSeqs);
    this.#token = new Int32Array(maxNumSeqs);
    this.#sampled = Array.from({ length: STEPS_IN_FLIGHT + 1 }, () => new Int32Array(maxNumSeqs));
  }

  get stepsInFlight(): number {
    return this.#inFlight.length;
  }

  submit(bytes: Uint8Array): void {
    const instruction = Instruction.getRootAsInstruction(new flatbuffers.ByteBuffer(bytes));
    if (instruction.workType() !== Work.StepPlan) {
      throw new Error(`instruction ${instruction.step()} is no step plan, and nothing else was asked for`);
    }
    const plan: StepPlan = instruction.work(new StepPlan());
    this.#open(plan);
    this.#inFlight.push(this.#read(plan, Number(instruction.step())));
  }

  /** The oldest step in flight; its result is to be committed next. */
  collect(): SubmittedStep {
    const step = this.#inFlight.shift();
    if (step === undefined) throw new Error('a result was asked for with no step in flight');
    return step;
  }

  result({ step, tokenIds }: SubmittedStep): Uint8Array {
    const template = this.#template(tokenIds.length);
    template.view.setBigUint64(template.stepAt, BigInt(step), true);
    template.tokenIds.set(tokenIds);
    return template.bytes;
  }

  #open(plan: StepPlan): void {
    const slots = plan.openSlotArray();
    if (slots === null) return;
    const samples = plan.openSampleArray()!;
    const alphabet = this.#plan.model.vocabSize - FIRST_OUTPUT_TOKEN;
    for (let i = 0; i < slots.length; i += 1) {
      // A request's seed is its id, so that an opened slot says whose it is.
      const group = this.#groups[Number(plan.openParams(i, this.#params)!.seed()) - 1]!;
      const slot = slots[i]!;
      const sample = samples[i]!;
      this.#lastPosition[slot] = group.promptTokens + group.lengths[sample]! - 1;
      this.#token[slot] = FIRST_OUTPUT_TOKEN + ((group.prompt * this.#plan.startedN + sample) % alphabet);
    }
  }

  #read(plan: StepPlan, step: number): SubmittedStep {
    const starts = plan.sequenceStartArray() ?? new Uint32Array(0);
    const counts = plan.sequenceNumTokensArray() ?? new Uint32Array(0);
    const numRows = plan.tokenIdsLength();
    const numSequences = starts.length;
    if (this.#rowPositions.length < numRows) this.#rowPositions = new Uint32Array(numRows * 2);
    const positions = this.#rowPositions;
    let contextTokens = 0;
    let attendedTokens = 0;
    let row = 0;
    for (let i = 0; i < numSequences; i += 1) {
      const start = starts[i]!;
      const count = counts[i]!;
      contextTokens += start + count;
      attendedTokens += count * start + (count * (count + 1)) / 2;
      for (let position = start; position < start + count; position += 1, row += 1) positions[row] = position;
    }
    const rows = plan.sampleRowArray() ?? new Uint32Array(0);
    const slots = plan.sampleSlotArray() ?? new Uint32Array(0);
    const numSamples = rows.length;
    const tokenIds = this.#sampled[step % this.#sampled.length]!.subarray(0, numSamples);
    const lastPosition = this.#lastPosition;
    const token = this.#token;
    for (let i = 0; i < numSamples; i += 1) {
      const slot = slots[i]!;
      tokenIds[i] = positions[rows[i]!]! + 1 >= lastPosition[slot]! ? EOS_TOKEN : token[slot]!;
    }
    const { device, model } = this.#plan;
    const shape = { numRows, numSequences, contextTokens, numSamples, attendedTokens };
    return { step, timeUs: stepTimeUs(device, model, shape), numRows, numSequences, tokenIds };
  }

  #template(numSamples: number): ResultTemplate {
    let template = this.#templates.get(numSamples);
    if (template === undefined) {
      template = makeTemplate(numSamples);
      this.#templates.set(numSamples, template);
    }
    return template;
  }
}

function makeTemplate(numSamples: number): ResultTemplate {
  const zeros = new Uint32Array(numSamples);
  const bytes = encodeResult({
    step: 1,
    tokenIds: new Int32Array(numSamples),
    logprobs: new Float32Array(numSamples),
    ranks: zeros,
    topEnds: zeros,
  });
  const result = Result.getRootAsResult(new flatbuffers.ByteBuffer(bytes));
  const stepField = 4;
  return {
    bytes,
    view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength),
    stepAt: result.bb_pos + result.bb!.__offset(result.bb_pos, stepField),
    tokenIds: numSamples === 0 ? new Int32Array(0) : result.tokenIdsArray()!,
  };
}
