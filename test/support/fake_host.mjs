// A host without a model, for tests of what goes on around one: token = hash(seed, sample, position), log-prob = -1 / (1 + position).
// It keeps the protocol of host.ts (enqueue, collect the oldest) and can be told to break it by its module URL's query:
//   ?throwAtStep=3   collect throws          ?exitAtStep=3   the thread exits          ?failAtStep=3   a Result with code step_failed
//   ?failOpen=1      it can't be opened      ?hangAtStep=3   collect never returns
//   ?failResumes=2   the first two resumes of memory have the code out_of_memory
//   ?numBlocks=7     it says that it has so many KV blocks   ?progress=500   it reports so many times while it starts

import * as flatbuffers from 'flatbuffers';
import { encodeResult } from '../../dist/core/index.js';
import { Instruction, StepPlan, Work } from '../../dist/generated/index.js';

const orders = new URL(import.meta.url).searchParams;
const orderedStep = (name) => Number(orders.get(name) ?? -1);

/** The token that the fake model gives at a position. */
export function fakeToken({ seed, sample, position, vocabSize }) {
  let hash = BigInt.asUintN(
    64,
    BigInt(seed) * 0x9e3779b97f4a7c15n + BigInt(sample) * 0xbf58476d1ce4e5b9n + BigInt(position),
  );
  hash = BigInt.asUintN(64, (hash ^ (hash >> 31n)) * 0x94d049bb133111ebn);
  return Number((hash ^ (hash >> 29n)) % BigInt(vocabSize));
}

export function fakeLogprob(position) {
  return Math.fround(-1 / (1 + position));
}

export class FakeHost {
  #vocabSize;
  #slots = new Map();
  #queue = [];
  #resumesToFail = Number(orders.get('failResumes') ?? 0);
  info = {
    name: 'fake',
    fingerprint: 'fake',
    ...(orders.has('numBlocks') ? { numBlocks: Number(orders.get('numBlocks')) } : {}),
  };
  closed = false;

  constructor(vocabSize) {
    this.#vocabSize = vocabSize;
  }

  submit(bytes) {
    this.#queue.push(Instruction.getRootAsInstruction(new flatbuffers.ByteBuffer(bytes)));
  }

  collect() {
    const instruction = this.#queue.shift();
    if (instruction === undefined) throw new Error('collect without a submit');
    const step = Number(instruction.step());
    if (step === orderedStep('throwAtStep')) throw new Error('the fake device caught fire');
    if (step === orderedStep('exitAtStep')) process.exit(7);
    if (step === orderedStep('hangAtStep'))
      for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
    if (step === orderedStep('failAtStep'))
      return encodeResult({ step, code: 'step_failed', message: 'told to fail', tokenIds: [] });
    if (instruction.workType() === Work.ResumeMemory && this.#resumesToFail > 0) {
      this.#resumesToFail -= 1;
      return encodeResult({ step, code: 'out_of_memory', message: '1 GiB is missing', tokenIds: [] });
    }
    if (instruction.workType() !== Work.StepPlan) return encodeResult({ step, tokenIds: [] });
    return this.#execute(step, instruction.work(new StepPlan()));
  }

  close() {
    this.closed = true;
  }

  #execute(step, plan) {
    for (let i = 0; i < plan.openSlotLength(); i += 1) {
      const params = plan.openParams(i);
      this.#slots.set(plan.openSlot(i), { seed: params.seed(), sample: plan.openSample(i) });
    }
    const positions = [];
    for (let i = 0; i < plan.sequenceSlotLength(); i += 1) {
      for (let k = 0; k < plan.sequenceNumTokens(i); k += 1) positions.push(plan.sequenceStart(i) + k);
    }
    const tokenIds = [];
    const logprobs = [];
    for (let i = 0; i < plan.sampleRowLength(); i += 1) {
      const position = positions[plan.sampleRow(i)] + 1;
      const slot = this.#slots.get(plan.sampleSlot(i));
      tokenIds.push(fakeToken({ ...slot, position, vocabSize: this.#vocabSize }));
      logprobs.push(fakeLogprob(position));
    }
    const scoreLogprobs = [];
    for (let i = 0; i < plan.scoreRowLength(); i += 1)
      scoreLogprobs.push(fakeLogprob(positions[plan.scoreRow(i)] + 1));
    return encodeResult({ step, tokenIds, logprobs, scoreLogprobs });
  }
}

export function openHost(options, progress) {
  if (orders.has('failOpen')) throw new Error('there is no fake device');
  const reports = orderedStep('progress');
  for (let done = 0; done <= reports; done += 1) progress('weights', done * 1000, reports * 1000);
  for (let done = 0; done <= 3 && reports >= 0; done += 1) progress('graphs', done, 3);
  return new FakeHost(options.vocabSize ?? options.model.config.vocabSize);
}
