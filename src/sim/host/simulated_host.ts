// A host without a model. It executes instructions in order, as schemas/instruction.fbs says, on slots, block tables
// and KV blocks of its own, and computes what it is told to: a wrong instruction gives a wrong token, which the
// checkers see. It only refuses what would be undefined on a device: a slot that nobody opened, a block that does not
// exist, a step while memory is released.

import { fail } from '../failure.js';
import type { PlanView } from '../step_plan.js';
import { KvMemory } from './kv_memory.js';
import {
  drawOf,
  EMPTY_FOLD,
  foldBlock,
  kvOf,
  logprobOf,
  mix,
  readingOf,
  rootOf,
  tokenOf,
  type Vocabulary,
} from './oracle.js';

export interface HostLimits {
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  maxModelLen: number;
  numBlocks: number;
  blockSize: number;
}

/** What the oracle must know of a request that no instruction says. */
export interface OracleRequest {
  cacheSalt: number;
  /** Output tokens after which each sample wants to end. */
  lengths: readonly number[];
}

interface Slot {
  seed: number;
  sample: number;
  promptTokens: number;
  root: number;
  request: OracleRequest;
  table: Int32Array;
  tableLength: number;
}

/** What happens to a step on the device. */
export interface StepFate {
  /** The step fails as a whole. */
  fails: boolean;
  /** Samples whose logits are NaN. */
  nanSamples: readonly number[];
}

/** Sampled tokens and their log-probs; views that the next step overwrites. */
export interface HostSamples {
  tokenIds: Int32Array;
  logprobs: Float32Array;
}

export class SimulatedHost {
  weightVersion = 0;
  readonly #limits: HostLimits;
  readonly #vocabulary: Vocabulary;
  readonly #requestOf: (seed: number) => OracleRequest | undefined;
  readonly #kv: KvMemory;
  readonly #slots: (Slot | undefined)[];
  /** Loads so far of each adapter that is loaded; `#loads` counts on when it is unloaded. */
  readonly #adapters = new Map<number, number>();
  readonly #loads = new Map<number, number>();
  readonly #rowSlot: Int32Array;
  readonly #rowPosition: Int32Array;
  #sampled = new Int32Array(16);
  #logprobs = new Float32Array(16);
  /** Of the step before, for rows that take their token from there. */
  #before = new Int32Array(16);
  #numBefore = 0;
  #releasedTags = 0;
  #isUpdating = false;

  constructor(
    limits: HostLimits,
    vocabulary: Vocabulary,
    requestOf: (seed: number) => OracleRequest | undefined,
  ) {
    this.#limits = limits;
    this.#vocabulary = vocabulary;
    this.#requestOf = requestOf;
    this.#kv = new KvMemory(limits.numBlocks, limits.blockSize);
    this.#slots = new Array(limits.maxNumSeqs);
    this.#rowSlot = new Int32Array(limits.maxNumBatchedTokens);
    this.#rowPosition = new Int32Array(limits.maxNumBatchedTokens);
  }

  /** How often an adapter of this number has been loaded, 0: it is not loaded. */
  generationOf(adapter: number): number {
    return this.#adapters.get(adapter) ?? 0;
  }

  execute(view: PlanView, { fails, nanSamples }: StepFate): HostSamples {
    if (this.#releasedTags !== 0 || this.#isUpdating)
      fail(
        'host',
        `A step came while memory is released (tags ${this.#releasedTags}) or weights are being updated.`,
      );
    [this.#sampled, this.#before] = [this.#before, this.#sampled];
    this.#open(view);
    this.#changeTables(view);
    for (let i = 0; i < view.copySource.length; i++) {
      this.#kv.copyBlock(this.#block(view.copySource[i]!), this.#block(view.copyTarget[i]!));
      if (fails) this.#kv.poisonBlock(view.copyTarget[i]!);
    }
    this.#compute(view, fails);
    const samples = this.#sample(view, fails);
    for (const sample of nanSamples) this.#poisonRowsOf(view, sample);
    this.#numBefore = view.sampleRow.length;
    return samples;
  }

  /** A control instruction takes effect; nothing of the step before can be referred to any more. */
  beginWeightUpdate(): void {
    if (this.#isUpdating) fail('host', 'A weight update began while another was going on.');
    this.#isUpdating = true;
    this.#numBefore = 0;
  }

  /** Over it is in any case; new weights there are when it succeeded. */
  finishWeightUpdate(version: number, succeeded: boolean): void {
    if (!this.#isUpdating) fail('host', 'A weight update was finished that had not begun.');
    this.#isUpdating = false;
    this.#numBefore = 0;
    if (!succeeded) return;
    if (version <= this.weightVersion)
      fail('weights', `Weights of version ${version} came after those of version ${this.weightVersion}.`);
    this.weightVersion = version;
  }

  releaseMemory(tags: number, kvTag: number): void {
    if ((this.#releasedTags & tags) !== 0) fail('host', `Memory was released twice (tags ${tags}).`);
    this.#releasedTags |= tags;
    if ((tags & kvTag) !== 0) this.#kv.poisonAll();
  }

  resumeMemory(tags: number): void {
    if ((this.#releasedTags & tags) !== tags) fail('host', `Memory came back that was there (tags ${tags}).`);
    this.#releasedTags &= ~tags;
  }

  loadAdapter(adapter: number): void {
    const loads = (this.#loads.get(adapter) ?? 0) + 1;
    this.#loads.set(adapter, loads);
    this.#adapters.set(adapter, loads);
  }

  unloadAdapter(adapter: number): void {
    this.#adapters.delete(adapter);
  }

  #open({ plan, openSlot, openSample, openPromptTokens, openAdapter }: PlanView): void {
    for (let i = 0; i < openSlot.length; i++) {
      const index = openSlot[i]!;
      if (index >= this.#limits.maxNumSeqs) fail('host', `Slot ${index} was opened, which does not exist.`);
      const seed = Number(plan.openParams(i)!.seed());
      const request = this.#requestOf(seed);
      if (request === undefined) fail('host', `Slot ${index} was opened for a seed that no request has.`);
      const adapter = openAdapter[i]!;
      if (adapter !== 0 && this.generationOf(adapter) === 0)
        fail('host', `Slot ${index} was opened with adapter ${adapter}, which is not loaded.`);
      const table =
        this.#slots[index]?.table ??
        new Int32Array(Math.ceil(this.#limits.maxModelLen / this.#limits.blockSize));
      this.#slots[index] = {
        seed,
        sample: openSample[i]!,
        promptTokens: openPromptTokens[i]!,
        root: rootOf(adapter, this.generationOf(adapter), request.cacheSalt),
        request,
        table,
        tableLength: 0,
      };
    }
  }

  #changeTables({ tableSlot, tableIndex, tableBlock }: PlanView): void {
    for (let i = 0; i < tableSlot.length; i++) {
      const slot = this.#slot(tableSlot[i]!);
      const index = tableIndex[i]!;
      if (index > slot.tableLength || index >= slot.table.length)
        fail('host', `Entry ${index} of the block table of slot ${tableSlot[i]} leaves a gap or its end.`);
      slot.table[index] = this.#block(tableBlock[i]!);
      if (index === slot.tableLength) slot.tableLength += 1;
    }
  }

  #compute(view: PlanView, fails: boolean): void {
    const { sequenceSlot, sequenceStart, sequenceNumTokens, tokenIds } = view;
    if (tokenIds.length > this.#limits.maxNumBatchedTokens)
      fail('budget', `A step has ${tokenIds.length} rows; ${this.#limits.maxNumBatchedTokens} may be.`);
    const kv = this.#kv;
    let row = 0;
    for (let i = 0; i < sequenceSlot.length; i++) {
      const slot = this.#slot(sequenceSlot[i]!);
      const end = sequenceStart[i]! + sequenceNumTokens[i]!;
      for (let position = sequenceStart[i]!; position < end; position++, row++) {
        const before = position === 0 ? slot.root : kv.read(this.#address(slot, position - 1));
        const address = this.#address(slot, position);
        if (fails) kv.poison(address);
        else kv.write(address, kvOf(before, this.#token(tokenIds[row]!), this.weightVersion));
        this.#rowSlot[row] = sequenceSlot[i]!;
        this.#rowPosition[row] = position;
      }
    }
  }

  #sample({ sampleRow, sampleSlot }: PlanView, fails: boolean): HostSamples {
    const count = sampleRow.length;
    if (this.#sampled.length < count) this.#sampled = new Int32Array(count);
    if (this.#logprobs.length < count) this.#logprobs = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      const slot = this.#slot(sampleSlot[i]!);
      const position = this.#rowPosition[sampleRow[i]!]! + 1;
      const draw = fails
        ? mix(position, 0x6661696c)
        : drawOf(this.#read(slot, position), { seed: slot.seed, sample: slot.sample, position });
      const isLast = position - slot.promptTokens + 1 === slot.request.lengths[slot.sample];
      this.#sampled[i] = tokenOf(draw, this.#vocabulary, isLast);
      this.#logprobs[i] = logprobOf(draw);
    }
    return { tokenIds: this.#sampled.subarray(0, count), logprobs: this.#logprobs.subarray(0, count) };
  }

  /** Reads [0, end) as attention does: every full block, and the last position. */
  #read(slot: Slot, end: number): number {
    const numFull = Math.floor(end / this.#kv.blockSize);
    let fold = EMPTY_FOLD;
    for (let index = 0; index < numFull; index++) fold = foldBlock(fold, this.#kv.sum(slot.table[index]!));
    return readingOf(this.#kv.read(this.#address(slot, end - 1)), fold);
  }

  /** What made the logits NaN may stand in the KV of the rows behind them. A row that several samples share is left alone. */
  #poisonRowsOf(
    { sampleRow, sequenceSlot, sequenceStart, sequenceNumTokens }: PlanView,
    sample: number,
  ): void {
    const row = sampleRow[sample]!;
    for (let other = 0; other < sampleRow.length; other++)
      if (other !== sample && sampleRow[other] === row) return;
    const index = this.#rowSlot[row]!;
    const slot = this.#slot(index);
    for (let i = 0; i < sequenceSlot.length; i++) {
      if (sequenceSlot[i] !== index) continue;
      for (let k = 0; k < sequenceNumTokens[i]!; k++)
        this.#kv.poison(this.#address(slot, sequenceStart[i]! + k));
    }
  }

  #token(tokenId: number): number {
    if (tokenId < 0) {
      if (-1 - tokenId >= this.#numBefore)
        fail('host', `A row takes its token from sample ${-1 - tokenId} of ${this.#numBefore}.`);
      return this.#before[-1 - tokenId]!;
    }
    if (tokenId >= this.#vocabulary.size)
      fail('host', `A row has token ${tokenId} of ${this.#vocabulary.size}.`);
    return tokenId;
  }

  #slot(index: number): Slot {
    return this.#slots[index] ?? fail('host', `Slot ${index} is used and was never opened.`);
  }

  #block(index: number): number {
    if (index >= this.#limits.numBlocks)
      fail('host', `Block ${index} is used; there are ${this.#limits.numBlocks}.`);
    return index;
  }

  #address(slot: Slot, position: number): number {
    const { blockSize } = this.#kv;
    const index = Math.floor(position / blockSize);
    if (index >= slot.tableLength)
      fail('host', `Position ${position} has no block: its table has ${slot.tableLength}.`);
    return slot.table[index]! * blockSize + (position % blockSize);
  }
}
