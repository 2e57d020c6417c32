// One replica's rollout on the real core, in virtual time: the schedule is the one that Kadenz would make.
//
// The device is never idle while there is work: step N + 1 is planned while N runs, so time is the sum of the steps' times. What was
// learned from step N (ends, aborts of what over-sampling started too much, places in the queue) reaches the core when N is committed,
// as in an engine. The queue takes as many requests as an engine's would; the rest is handed in as requests end.

import * as flatbuffers from 'flatbuffers';
import { encodeCommand, WasmCore } from '../../core/index.js';
import { errorFromWire } from '../../errors.js';
import { FinishReason, Output, Stats } from '../../generated/index.js';
import { PlanHost, type SubmittedStep } from './host.js';
import { PlanSeries, type SeriesPoint } from './series.js';
import { EOS_TOKEN, type Group, groupsOf, type PlanCase, promptTokenIds } from './workload.js';

/** What a rollout came to on one replica. Times are virtual. */
export interface ReplicaResult {
  replica: number;
  timeUs: number;
  /** When each wanted sample was done, ascending. */
  finishUs: Float64Array;
  /** Output tokens of the wanted samples. */
  tokens: number;
  /** Of samples that were started beyond those and aborted. */
  droppedTokens: number;
  steps: number;
  preemptions: number;
  /** Prompt tokens of started requests, and how many of them the prefix cache spared. */
  promptTokens: number;
  cachedPromptTokens: number;
  peakBatch: number;
  peakKvShare: number;
  /** Integral of the share of KV blocks held, over time. */
  kvShareUs: number;
  /** Time in steps of fewer than half as many sequences as the peak. */
  belowHalfUs: number;
  points: readonly SeriesPoint[];
}

const MAX_REQUESTS_HELD = 1024;
const REQUESTS_PER_COMMAND = 64;

export async function simulateReplica(plan: PlanCase, replica: number): Promise<ReplicaResult> {
  const groups = groupsOf(plan, replica);
  if (groups.length === 0) return emptyResult(replica);
  const config = coreConfigOf(plan, groups);
  const core = await WasmCore.create(config);
  return new ReplicaRun(plan, { replica, groups, core, maxRequestsHeld: config.maxNumRequests }).run();
}

/** A replica that got nothing to do. */
export function emptyResult(replica: number): ReplicaResult {
  const counts = {
    tokens: 0,
    droppedTokens: 0,
    steps: 0,
    preemptions: 0,
    promptTokens: 0,
    cachedPromptTokens: 0,
  };
  const use = { peakBatch: 0, peakKvShare: 0, kvShareUs: 0, belowHalfUs: 0 };
  return { replica, timeUs: 0, finishUs: new Float64Array(0), ...counts, ...use, points: [] };
}

function coreConfigOf(plan: PlanCase, groups: readonly Group[]) {
  const longest = groups.reduce(
    (most, { promptTokens, lengths }) =>
      Math.max(most, promptTokens + lengths.reduce((a, b) => Math.max(a, b), 0)),
    0,
  );
  return {
    ...plan.scheduler,
    // Nothing is longer than this, and the core's memory grows with it.
    maxModelLen: longest,
    vocabSize: plan.model.vocabSize,
    maxNumRequests: Math.min(groups.length, Math.max(MAX_REQUESTS_HELD, 2 * plan.scheduler.maxNumSeqs)),
    maxN: plan.startedN,
    eosTokenIds: [EOS_TOKEN],
  };
}

interface RunParts {
  replica: number;
  groups: readonly Group[];
  core: WasmCore;
  maxRequestsHeld: number;
}

class ReplicaRun {
  readonly #plan: PlanCase;
  readonly #groups: readonly Group[];
  readonly #core: WasmCore;
  readonly #maxRequestsHeld: number;
  readonly #host: PlanHost;
  readonly #series = new PlanSeries();
  readonly #finishUs: number[] = [];
  /** Time spent in steps of each number of sequences. */
  readonly #batchUs: Float64Array;
  readonly #result: ReplicaResult;
  readonly #samplesDone: Uint32Array;
  readonly #samplesEnded: Uint32Array;
  #nextGroup = 0;
  #requestsHeld = 0;
  #nextCommand = 1;

  constructor(plan: PlanCase, { replica, groups, core, maxRequestsHeld }: RunParts) {
    this.#plan = plan;
    this.#groups = groups;
    this.#core = core;
    this.#maxRequestsHeld = maxRequestsHeld;
    this.#host = new PlanHost(plan, groups);
    this.#batchUs = new Float64Array(plan.scheduler.maxNumSeqs + 1);
    this.#samplesDone = new Uint32Array(groups.length);
    this.#samplesEnded = new Uint32Array(groups.length);
    this.#result = emptyResult(replica);
  }

  run(): ReplicaResult {
    const result = this.#result;
    this.#handIn();
    for (;;) {
      for (let bytes = this.#core.schedule(); bytes !== null; bytes = this.#core.schedule())
        this.#host.submit(bytes);
      if (this.#host.stepsInFlight === 0) break;
      this.#turn(this.#host.collect());
    }
    if (this.#requestsHeld > 0 || this.#nextGroup < this.#groups.length) {
      throw new Error(`the core stopped with ${this.#requestsHeld} requests held and nothing in flight`);
    }
    const stats = this.#stats();
    result.steps = Number(stats.step());
    result.preemptions = Number(stats.numPreemptions());
    result.promptTokens = Number(stats.promptTokens());
    result.cachedPromptTokens = Number(stats.cachedPromptTokens());
    result.droppedTokens = Number(stats.generationTokens()) - result.tokens;
    result.finishUs = Float64Array.from(this.#finishUs);
    for (let batch = 1; 2 * batch < result.peakBatch; batch += 1) result.belowHalfUs += this.#batchUs[batch]!;
    return { ...result, points: this.#series.points };
  }

  #turn(step: SubmittedStep): void {
    const result = this.#result;
    result.timeUs += step.timeUs;
    const output = this.#core.commit(this.#host.result(step));
    this.#take(output, result.timeUs);
    result.peakBatch = Math.max(result.peakBatch, step.numSequences);
    this.#batchUs[step.numSequences]! += step.timeUs;
    const kvShare = this.#stats().numHeldBlocks() / this.#plan.scheduler.numBlocks;
    result.peakKvShare = Math.max(result.peakKvShare, kvShare);
    result.kvShareUs += kvShare * step.timeUs;
    if (!this.#series.wantsNext()) return;
    const { timeUs } = result;
    this.#series.add({ timeUs, batch: step.numSequences, kvShare, finished: this.#finishUs.length });
  }

  #stats(): Stats {
    return Stats.getRootAsStats(new flatbuffers.ByteBuffer(this.#core.stats()));
  }

  /** Reads what ended, then tells the core what follows from it. */
  #take(bytes: Uint8Array, timeUs: number): void {
    const output = Output.getRootAsOutput(new flatbuffers.ByteBuffer(bytes));
    const count = output.finishRequestLength();
    if (count === 0) return;
    const enough: number[] = [];
    for (let i = 0; i < count; i += 1) {
      const index = Number(output.finishRequest(i)!) - 1;
      const reason = output.finishReason(i)!;
      const samples = output.finishCount(i)!;
      if (reason === FinishReason.error) this.#refused(output, i);
      const group = this.#groups[index]!;
      this.#samplesEnded[index]! += samples;
      if (reason !== FinishReason.abort) {
        const before = this.#samplesDone[index]!;
        this.#samplesDone[index] = before + samples;
        // Samples that end in the same step as the last wanted one are as good as it, but not wanted.
        for (let at = 0; at < samples && before + at < group.wanted; at += 1) {
          this.#finishUs.push(timeUs);
          this.#result.tokens += group.lengths[output.finishSample(i)! + at]!;
        }
        const isEnough = before < group.wanted && before + samples >= group.wanted;
        if (isEnough && group.wanted < group.lengths.length) enough.push(index + 1);
      }
      if (this.#samplesEnded[index] === group.lengths.length) this.#requestsHeld -= 1;
    }
    if (enough.length > 0) this.#abort(enough, timeUs);
    this.#handIn();
  }

  #abort(requestIds: readonly number[], timeUs: number): void {
    const command = encodeCommand(this.#nextCommand++, { type: 'abortRequests', requestIds });
    this.#take(this.#core.apply(command), timeUs);
  }

  /** Gives the core as many requests as its queue has room for, in their order. */
  #handIn(): void {
    const room = this.#maxRequestsHeld - this.#requestsHeld;
    for (let left = Math.min(room, this.#groups.length - this.#nextGroup); left > 0; ) {
      const first = this.#nextGroup;
      const groups = this.#groups.slice(first, first + Math.min(left, REQUESTS_PER_COMMAND));
      const requests = groups.map((group, at) => requestOf(group, { id: first + at + 1, plan: this.#plan }));
      this.#nextGroup += groups.length;
      this.#requestsHeld += groups.length;
      left -= groups.length;
      this.#take(
        this.#core.apply(encodeCommand(this.#nextCommand++, { type: 'addRequests', requests })),
        this.#result.timeUs,
      );
    }
  }

  /** A request that the core would not have: a plan that can't be carried out is the user's to mend. */
  #refused(output: Output, i: number): never {
    const refusal = { value: output.finishValue(i)!, limit: output.finishLimit(i)! };
    throw errorFromWire(output.finishCode(i)!, refusal);
  }
}

function requestOf(group: Group, { id, plan }: { id: number; plan: PlanCase }) {
  return {
    id,
    seed: id,
    promptTokenIds: promptTokenIds(group, plan),
    n: group.lengths.length,
    maxTokens: group.lengths.reduce((a, b) => Math.max(a, b), 0),
  };
}
