// A fast model of one replica: the schedule by counting, for plans of more replicas than the real core can be run for.
//
// It follows docs/scheduling.md: one budget a step, decode before prefill, one order, samples of a group share a prefill and its full
// blocks, the last running sequence is preempted when blocks run out, a sequence gives back what it holds two steps after its last row.
// Steps with a prompt in them are taken one by one. In between, as long as nothing ends and blocks suffice, every sequence grows by one
// token a step: such a stretch costs one formula, however long it is. What it leaves out: which block is whose, copies of partial blocks,
// and hits in the cache other than those of a group's prompt, of the shared prefix, and of a sequence that was preempted.
// A plan runs it beside the real core on the same replicas and says how far it is off.

import { type StepShape, stepTimeUs } from '../cost_model.js';
import { FastBlocks } from './fast_blocks.js';
import { decodeTimeUs, type LiveGroup, type Prefill, type Sequence } from './fast_state.js';
import { emptyResult, type ReplicaResult } from './replica.js';
import { type Group, groupsOf, type PlanCase } from './workload.js';

/** Steps from a sequence's last row until its slot and blocks can be given to another: the one in flight, and the one being planned. */
const STEPS_UNTIL_FREE = 2;

export function fastReplica(plan: PlanCase, replica: number): ReplicaResult {
  const groups = groupsOf(plan, replica);
  return groups.length === 0 ? emptyResult(replica) : new FastReplica(plan, { replica, groups }).run();
}

class FastReplica {
  readonly #plan: PlanCase;
  readonly #blocks: FastBlocks;
  readonly #waitingGroups: LiveGroup[];
  readonly #preempted: Sequence[] = [];
  /** By key; those that only wait for their last step to be committed are in #draining. */
  readonly #decoding: Sequence[] = [];
  readonly #draining: { sequence: Sequence; step: number }[] = [];
  readonly #prefills: Prefill[] = [];
  readonly #finishUs: number[] = [];
  readonly #result: ReplicaResult;
  readonly #batchUs: Float64Array;
  readonly #shape = { numRows: 0, numSequences: 0, contextTokens: 0, numSamples: 0, attendedTokens: 0 };
  #nextGroup = 0;
  #offsets = 0;
  #slots: number;
  #step = 1;

  constructor(plan: PlanCase, { replica, groups }: { replica: number; groups: readonly Group[] }) {
    const { maxNumSeqs } = plan.scheduler;
    this.#plan = plan;
    this.#blocks = new FastBlocks(plan);
    this.#slots = maxNumSeqs;
    this.#batchUs = new Float64Array(maxNumSeqs + 1);
    this.#result = emptyResult(replica);
    this.#waitingGroups = groups.map((group, index) => ({
      index,
      group,
      promptBlocks: 0,
      longest: group.lengths.reduce((a, b) => Math.max(a, b), 0),
      sequences: 0,
      unstarted: group.lengths.length,
      wantedLeft: group.wanted,
      aborted: false,
      cachedBlocks: 0,
    }));
  }

  run(): ReplicaResult {
    const result = this.#result;
    for (;;) {
      this.#retire();
      const preempted = this.#makeRoom();
      if (!preempted) this.#admit();
      if (this.#prefills.length > 0) this.#mixedStep();
      else if (this.#decoding.length > 0) this.#stretch();
      else if (this.#draining.length > 0) this.#step = this.#draining[0]!.step;
      else if (preempted) continue;
      else break;
    }
    if (this.#preempted.length > 0 || this.#nextGroup < this.#waitingGroups.length) {
      throw new Error('the fast model stopped with samples that wait');
    }
    if (!this.#blocks.isAllGivenBack) throw new Error('the fast model has lost blocks');
    result.finishUs = Float64Array.from(this.#finishUs);
    for (let batch = 1; 2 * batch < result.peakBatch; batch += 1) result.belowHalfUs += this.#batchUs[batch]!;
    return result;
  }

  /** Slots and blocks of those whose last row has been committed. */
  #retire(): void {
    while (this.#draining.length > 0 && this.#draining[0]!.step <= this.#step) {
      const { sequence } = this.#draining.shift()!;
      this.#release(sequence, { tokens: sequence.offset + sequence.lastRow, owner: null });
    }
  }

  /** Preempts the last of what runs until the sequences that enter a new block in this step can have one. */
  #makeRoom(): boolean {
    let preempted = false;
    while (this.#blocks.neededAt(this.#step) > this.#blocks.available) {
      const prefill = this.#prefills.pop();
      const victims = prefill?.sequences ?? [this.#decoding.at(-1)!];
      for (const sequence of victims) this.#preempt(sequence, { decodes: prefill === undefined });
      preempted = true;
    }
    return preempted;
  }

  #preempt(sequence: Sequence, { decodes }: { decodes: boolean }): void {
    let inBlocks = sequence.tokens;
    if (decodes) {
      this.#decoding.pop();
      this.#forget(sequence);
      inBlocks = sequence.offset + this.#step - 1;
      sequence.tokens = inBlocks + 1;
      sequence.remaining = sequence.lastStep - this.#step + 1;
    }
    this.#release(sequence, { tokens: inBlocks, owner: sequence });
    this.#result.preemptions += 1;
    // The step in flight has sampled its last token already: it will not come back.
    if (sequence.remaining <= 0 || sequence.group.aborted) return;
    const at = this.#preempted.findIndex(({ key }) => key > sequence.key);
    this.#preempted.splice(at < 0 ? this.#preempted.length : at, 0, sequence);
  }

  /** Takes from the head of the queue what has a slot, budget and blocks; nothing overtakes. */
  #admit(): void {
    let budget = this.#plan.scheduler.maxNumBatchedTokens - this.#decoding.length;
    for (const { tokens, computed } of this.#prefills) budget -= tokens - computed;
    while (budget > 0 && this.#slots > 0) {
      const admitted = this.#preempted.length > 0 ? this.#readmit(this.#preempted[0]!) : this.#admitGroup();
      if (admitted === null) return;
      budget -= admitted.tokens - admitted.computed;
      this.#prefills.push(admitted);
    }
  }

  #readmit(sequence: Sequence): Prefill | null {
    const { group, tokens } = sequence;
    if (this.#blocks.ownBlocks(group, tokens) > this.#roomFor(group)) return null;
    this.#preempted.shift();
    this.#slots -= 1;
    return { sequences: [sequence], tokens, computed: this.#blocks.rejoin(sequence, this.#step) };
  }

  #admitGroup(): Prefill | null {
    const group = this.#waitingGroups[this.#nextGroup];
    if (group === undefined) return null;
    const tokens = group.group.promptTokens;
    const own = this.#blocks.ownBlocks(group, tokens);
    const room = this.#roomFor(group);
    const fitting = own === 0 ? (room < 0 ? 0 : group.unstarted) : Math.floor(room / own);
    const count = Math.min(this.#slots, group.unstarted, fitting);
    if (count <= 0) return null;
    this.#slots -= count;
    const first = group.group.lengths.length - group.unstarted;
    const sequences = Array.from({ length: count }, (_, i) => this.#sequenceOf(group, first + i));
    group.unstarted -= count;
    if (group.unstarted === 0) this.#nextGroup += 1;
    const computed = this.#blocks.join(group, { count, tokens, step: this.#step });
    this.#result.promptTokens += tokens;
    this.#result.cachedPromptTokens += computed;
    return { sequences, tokens, computed };
  }

  /** Blocks for a sequence of its own, beside its prompt's and what the running ones need in this step. */
  #roomFor(group: LiveGroup): number {
    const needed = this.#blocks.neededAt(this.#step) + this.#blocks.promptBlocksMissing(group, this.#step);
    return this.#blocks.available - needed;
  }

  #sequenceOf(group: LiveGroup, sample: number): Sequence {
    const remaining = group.group.lengths[sample]!;
    const key = group.index * this.#plan.startedN + sample;
    const tokens = group.group.promptTokens;
    return { key, group, remaining, tokens, offset: 0, lastStep: 0, lastRow: 0, cachedBlocks: 0 };
  }

  /** A step with prompts in it. */
  #mixedStep(): void {
    const shape = this.#decodeShape();
    let budget = this.#plan.scheduler.maxNumBatchedTokens - shape.numRows;
    const done: Sequence[] = [];
    while (this.#prefills.length > 0 && budget > 0) {
      const prefill = this.#prefills[0]!;
      const rows = Math.min(budget, prefill.tokens - prefill.computed);
      shape.numRows += rows;
      shape.numSequences += 1;
      shape.contextTokens += prefill.computed + rows;
      shape.attendedTokens += rows * prefill.computed + (rows * (rows + 1)) / 2;
      budget -= rows;
      prefill.computed += rows;
      if (prefill.computed < prefill.tokens) break;
      this.#prefills.shift();
      this.#blocks.promptComputed(prefill.sequences[0]!.group, this.#step);
      done.push(...prefill.sequences);
    }
    shape.numSamples += done.length;
    const { device, model } = this.#plan;
    const batch = shape.numSequences;
    const step = this.#step;
    this.#advance({ steps: 1, us: stepTimeUs(device, model, shape), batch });
    for (const sequence of done) this.#startDecoding(sequence, step);
    this.#settle(step);
  }

  /** As many steps as nothing changes in but the lengths. */
  #stretch(): void {
    const first = this.#step;
    let last = Number.MAX_SAFE_INTEGER;
    for (const { lastStep, lastRow } of this.#decoding)
      last = Math.min(last, lastStep >= first ? lastStep : lastRow, lastRow);
    // Who waits may fit when something is given back.
    const someWait = this.#preempted.length > 0 || this.#nextGroup < this.#waitingGroups.length;
    if (someWait && this.#draining.length > 0) last = Math.min(last, this.#draining[0]!.step - 1);
    const steps = Math.min(last - first + 1, this.#blocks.stepsUntilShort(first, this.#decoding.length));
    this.#advance({
      steps,
      us: decodeTimeUs(this.#plan, this.#decodeShape(), steps),
      batch: this.#decoding.length,
    });
    this.#settle(this.#step - 1);
  }

  #advance({ steps, us, batch }: { steps: number; us: number; batch: number }): void {
    const { numBlocks } = this.#plan.scheduler;
    const result = this.#result;
    const grown = this.#blocks.grow(this.#step, { steps, numDecoding: this.#decoding.length });
    const held = 1 - this.#blocks.available / numBlocks;
    this.#step += steps;
    result.steps += steps;
    result.timeUs += us;
    result.peakBatch = Math.max(result.peakBatch, batch);
    result.peakKvShare = Math.max(result.peakKvShare, held);
    result.kvShareUs += (held - grown / numBlocks / 2) * us;
    this.#batchUs[batch]! += us;
  }

  /** What ended with this step, or computed its last row in it. */
  #settle(step: number): void {
    for (const sequence of this.#decoding) if (sequence.lastStep === step) this.#finish(sequence, step);
    let kept = 0;
    for (const sequence of this.#decoding) {
      if (sequence.lastRow <= step) {
        this.#forget(sequence);
        this.#draining.push({ sequence, step: sequence.lastRow + STEPS_UNTIL_FREE });
      } else {
        this.#decoding[kept] = sequence;
        kept += 1;
      }
    }
    this.#decoding.length = kept;
  }

  #finish(sequence: Sequence, step: number): void {
    const { group } = sequence;
    if (group.wantedLeft === 0) {
      this.#result.droppedTokens += this.#lengthOf(sequence);
      return;
    }
    group.wantedLeft -= 1;
    this.#finishUs.push(this.#result.timeUs);
    this.#result.tokens += this.#lengthOf(sequence);
    if (group.wantedLeft === 0 && group.group.wanted < group.group.lengths.length) this.#abort(group, step);
  }

  /** The rest of a group is not wanted: what decodes has one row in flight, what waits is dropped. */
  #abort(group: LiveGroup, step: number): void {
    group.aborted = true;
    for (const other of this.#decoding) {
      if (other.group !== group || other.lastStep <= step) continue;
      this.#result.droppedTokens += this.#lengthOf(other) - (other.lastStep - step);
      other.lastStep = Number.MAX_SAFE_INTEGER;
      other.lastRow = Math.min(other.lastRow, step + 1);
    }
    for (const other of this.#preempted) {
      if (other.group === group) this.#result.droppedTokens += this.#lengthOf(other) - other.remaining;
    }
    const waiting = this.#preempted.filter((other) => other.group !== group);
    this.#preempted.splice(0, this.#preempted.length, ...waiting);
    for (const prefill of this.#prefills.filter(({ sequences }) => sequences[0]!.group === group)) {
      this.#prefills.splice(this.#prefills.indexOf(prefill), 1);
      for (const other of prefill.sequences) this.#release(other, { tokens: prefill.tokens, owner: null });
    }
    if (this.#waitingGroups[this.#nextGroup] === group) this.#nextGroup += 1;
    group.unstarted = 0;
  }

  #startDecoding(sequence: Sequence, step: number): void {
    const { group } = sequence;
    sequence.offset = sequence.tokens - step;
    sequence.lastStep = step + sequence.remaining - 1;
    // The core knows the longest sample's end beforehand: it is the request's max_tokens. The others are found out by their EOS.
    const endsByLength = this.#lengthOf(sequence) === group.longest;
    sequence.lastRow = sequence.lastStep + (endsByLength ? 0 : 1);
    let at = this.#decoding.length;
    while (at > 0 && this.#decoding[at - 1]!.key > sequence.key) at -= 1;
    this.#decoding.splice(at, 0, sequence);
    this.#offsets += sequence.offset;
    this.#blocks.startDecoding(sequence);
  }

  #lengthOf({ key, group }: Sequence): number {
    return group.group.lengths[key - group.index * this.#plan.startedN]!;
  }

  #forget(sequence: Sequence): void {
    this.#offsets -= sequence.offset;
    this.#blocks.stopDecoding(sequence);
  }

  /** @param tokens of the sequence that are in its blocks */
  #release(sequence: Sequence, { tokens, owner }: { tokens: number; owner: Sequence | null }): void {
    this.#slots += 1;
    this.#blocks.leave(sequence, { tokens, owner });
  }

  /** The decode part of the step at hand; the same object at each call. */
  #decodeShape(): Required<StepShape> {
    const shape = this.#shape;
    shape.numRows = this.#decoding.length;
    shape.numSequences = shape.numRows;
    shape.numSamples = shape.numRows;
    shape.contextTokens = this.#offsets + this.#step * shape.numRows;
    shape.attendedTokens = shape.contextTokens;
    return shape;
  }
}
