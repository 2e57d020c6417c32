// A host without a model that executes instructions and believes nothing: it keeps slots, block tables and KV as a real one does, and
// before each row it reads the whole prefix back out of the KV cache and compares it with what the sequence's own tokens say must be
// there. What it samples is the oracle's token of what it read.
//
// Requests are told apart by their seed, which tests keep unique: the wire names no request.
import { nextChain, type OracleRequest, oracleToken, oracleTokens, rootChain } from './core_oracle.js';
import { type InstructionObject, type ResultObject, resultFor, type StepPlanObject } from './core_types.js';

export interface HostLimits {
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  maxModelLen: number;
  numBlocks: number;
  blockSize: number;
  vocabSize: number;
}

interface Slot {
  seed: number;
  sample: number;
  request: OracleRequest;
  numPromptTokens: number;
  table: number[];
  /** Hash chain of the sequence's tokens by position, by its own account. */
  chain: number[];
  computed: number;
  openedInStep: number;
}

interface Row {
  position: number;
  tokenId: number;
  step: number;
}

function check(holds: boolean, sentence: string): asserts holds {
  if (!holds) throw new Error(`host: ${sentence}`);
}

export class CheckingHost {
  weightVersion = 0;
  readonly slots: (Slot | undefined)[];
  private readonly chainAt: Int32Array;
  private readonly versionAt: Int32Array;
  private readonly saltAt: Int32Array;
  private readonly filled: Uint8Array;
  private readonly writtenBy: Int32Array;
  private released = new Set<string>();
  private updating = false;
  private shutDown = false;
  /** What the step before sampled, for rows that take their token from there. */
  private lastSamples: { slot: Slot; tokenId: number }[] = [];

  /** @param wholePrefix read every position of a prefix back; else two of each block, for long runs */
  constructor(
    readonly limits: HostLimits,
    private readonly requestOf: (seed: number) => OracleRequest,
    private readonly wholePrefix = true,
  ) {
    const positions = limits.numBlocks * limits.blockSize;
    this.slots = new Array(limits.maxNumSeqs);
    this.chainAt = new Int32Array(positions);
    this.versionAt = new Int32Array(positions);
    this.saltAt = new Int32Array(positions);
    this.filled = new Uint8Array(positions);
    this.writtenBy = new Int32Array(positions);
  }

  execute(instruction: InstructionObject): ResultObject {
    check(!this.shutDown, 'nothing is asked after shutdown');
    check(
      Number(instruction.weightVersion) === this.weightVersion,
      'an instruction carries the version of the weights that are loaded',
    );
    if (instruction.type === 'stepPlan') return this.executePlan(instruction);
    this.lastSamples = [];
    this.control(instruction);
    return { step: instruction.step };
  }

  /** A control instruction that could not be carried out. An update that was to be finished is over all the same. */
  refuse(instruction: InstructionObject): void {
    if (instruction.type === 'finishWeightUpdate') this.updating = false;
  }

  private control(instruction: Exclude<InstructionObject, StepPlanObject>): void {
    switch (instruction.type) {
      case 'beginWeightUpdate':
        check(!this.updating, 'an update begins after the one before has finished');
        this.updating = true;
        return;
      case 'finishWeightUpdate':
        check(this.updating, 'only an update that has begun is finished');
        this.updating = false;
        if (!instruction.succeeded) return;
        check(Number(instruction.version) > this.weightVersion, 'weight versions only grow');
        this.weightVersion = Number(instruction.version);
        return;
      case 'releaseMemory':
        for (const tag of instruction.tags) {
          check(!this.released.has(tag), `${tag} is released once`);
          this.released.add(tag);
        }
        if (instruction.tags.includes('kv_cache')) this.filled.fill(0);
        return;
      case 'resumeMemory':
        for (const tag of instruction.tags)
          check(this.released.delete(tag), `${tag} is resumed when released`);
        return;
      case 'shutdown':
        this.shutDown = true;
        return;
      default:
        return;
    }
  }

  private executePlan(plan: StepPlanObject): ResultObject {
    const { limits } = this;
    check(this.released.size === 0, 'no step runs while memory is released');
    check(!this.updating, 'no step runs during a weight update');
    check(plan.numTokens > 0, 'a step computes something');
    check(plan.numTokens <= limits.maxNumBatchedTokens, 'a step keeps the token budget');
    this.open(plan);
    this.changeTables(plan);
    for (const { source, target } of plan.copies) this.copy(source, target, plan.step);
    const rows = this.compute(plan);
    const samples = plan.samples.map(({ row, slot: index }) => {
      const slot = this.slotAt(index);
      const computed = rows[row];
      check(computed !== undefined, `sample row ${row} exists`);
      const position = computed.position + 1;
      if (computed.slot !== slot) this.joinFanOut(slot, computed.slot, plan.step);
      check(slot.computed === position, 'a sample follows the last row that its sequence has computed');
      const chain = this.readPrefix(slot, position);
      return {
        slot,
        tokenId: oracleToken(chain, { seed: slot.seed, sample: slot.sample, position }, limits.vocabSize),
      };
    });
    this.checkScores(plan, rows);
    this.lastSamples = samples;
    return resultFor(plan, (sample) => samples[sample.index]!.tokenId);
  }

  private open(plan: StepPlanObject): void {
    const { limits } = this;
    const opened = new Set<number>();
    for (const { slot, sample, promptTokens, adapter, params } of plan.opens) {
      check(slot < limits.maxNumSeqs, `slot ${slot} exists`);
      check(!opened.has(slot), 'a slot is opened once in a step');
      opened.add(slot);
      const seed = Number(params.seed);
      const request = this.requestOf(seed);
      check(request.promptTokenIds.length === promptTokens, 'a slot is opened with the length of its prompt');
      check(request.adapter === adapter, 'a slot is opened with the adapter of its request');
      this.slots[slot] = {
        seed,
        sample,
        request,
        numPromptTokens: promptTokens,
        table: [],
        chain: [],
        computed: 0,
        openedInStep: plan.step,
      };
    }
  }

  private changeTables(plan: StepPlanObject): void {
    const { limits } = this;
    const maxBlocks = Math.ceil(limits.maxModelLen / limits.blockSize);
    for (const { slot, index, block } of plan.tableChanges) {
      check(block < limits.numBlocks, `block ${block} exists`);
      check(index < maxBlocks, `table entry ${index} lies within the model's length`);
      const { table } = this.slotAt(slot);
      check(index <= table.length, 'a block table grows without gaps');
      table[index] = block;
    }
  }

  /** The step turns out to have failed: what it wrote, and nobody has written since, is garbage. */
  fail(step: number): void {
    for (let at = 0; at < this.filled.length; at++) if (this.writtenBy[at] === step) this.filled[at] = 0;
  }

  private copy(source: number, target: number, step: number): void {
    const { blockSize } = this.limits;
    for (const column of [this.chainAt, this.versionAt, this.saltAt, this.filled]) {
      column.copyWithin(target * blockSize, source * blockSize, (source + 1) * blockSize);
    }
    this.writtenBy.fill(step, target * blockSize, (target + 1) * blockSize);
  }

  private compute(plan: StepPlanObject): { slot: Slot; position: number }[] {
    const computed = new Set<Slot>();
    const rows: { slot: Slot; position: number }[] = [];
    for (const { slot: index, start, tokenIds } of plan.sequences) {
      const slot = this.slotAt(index);
      check(!computed.has(slot), 'a sequence is computed once in a step');
      computed.add(slot);
      check(tokenIds.length > 0, 'a planned sequence computes something');
      if (slot.openedInStep === plan.step) this.takeOver(slot, start);
      check(slot.computed === start, 'a sequence goes on where it stopped');
      this.readPrefix(slot, start);
      tokenIds.forEach((tokenId, i) => {
        this.write(slot, { position: start + i, tokenId: this.resolve(slot, tokenId), step: plan.step });
        rows.push({ slot, position: start + i });
      });
      slot.computed = start + tokenIds.length;
    }
    return rows;
  }

  /** A prefix that the cache holds: it must have been computed for this chain, by these weights, under this salt. */
  private takeOver(slot: Slot, start: number): void {
    const { request } = slot;
    const prompt = request.promptTokenIds;
    const numOutputs = Math.max(0, start - prompt.length);
    const outputs = oracleTokens(request, slot.sample, numOutputs, this.limits.vocabSize);
    for (let position = 0; position < start; position++) {
      const at = this.address(slot, position);
      check(this.versionAt[at] === this.weightVersion, 'a cache hit was computed by the present weights');
      check(this.saltAt[at] === request.cacheSalt, 'a cache hit has the salt of the request');
      this.extendChain(slot, position, prompt[position] ?? outputs[position - prompt.length]!);
    }
    slot.computed = start;
  }

  /** A follower: it has its leader's prompt, and its table shows the leader's blocks. */
  private joinFanOut(slot: Slot, leader: Slot, step: number): void {
    check(slot.openedInStep === step, 'a row is sampled for another sequence only when that one is opened');
    check(slot.seed === leader.seed, 'a row is sampled for sequences of one request');
    check(leader.computed === leader.numPromptTokens, 'a fan-out follows the last prompt row');
    slot.chain = leader.chain.slice();
    slot.computed = leader.computed;
  }

  private resolve(slot: Slot, tokenId: number): number {
    if (tokenId >= 0) return tokenId;
    const sampled = this.lastSamples[-1 - tokenId];
    check(sampled !== undefined, 'a row takes its token from a sample of the step before');
    check(sampled.slot === slot, 'a row takes the token that was sampled for its own sequence');
    return sampled.tokenId;
  }

  private write(slot: Slot, { position, tokenId, step }: Row): void {
    const { request } = slot;
    check(tokenId >= 0 && tokenId < this.limits.vocabSize, 'a row has a token of the vocabulary');
    const expected = position < request.promptTokenIds.length ? request.promptTokenIds[position] : tokenId;
    check(tokenId === expected, `position ${position} of the prompt has its own token`);
    check(position < this.limits.maxModelLen, 'a position lies within the model');
    this.extendChain(slot, position, tokenId);
    const at = this.address(slot, position);
    this.chainAt[at] = slot.chain[position]!;
    this.versionAt[at] = this.weightVersion;
    this.saltAt[at] = request.cacheSalt;
    this.filled[at] = 1;
    this.writtenBy[at] = step;
  }

  private extendChain(slot: Slot, position: number, tokenId: number): void {
    const before = position === 0 ? rootChain(slot.request.adapter) : slot.chain[position - 1]!;
    slot.chain[position] = nextChain(before, tokenId) | 0;
  }

  /** Compares the KV of [0, end) with the sequence's own chain; gives the chain at its end. */
  private readPrefix(slot: Slot, end: number): number {
    const { blockSize } = this.limits;
    for (let position = 0; position < end; position++) {
      const offset = position % blockSize;
      if (!this.wholePrefix && offset !== 0 && offset !== blockSize - 1 && position !== end - 1) continue;
      const at = this.address(slot, position);
      check(this.filled[at] === 1, `position ${position} of the prefix has been computed`);
      check(this.chainAt[at] === slot.chain[position], `position ${position} holds the KV of its own prefix`);
    }
    return (end === 0 ? rootChain(slot.request.adapter) : slot.chain[end - 1]!) >>> 0;
  }

  private checkScores(plan: StepPlanObject, rows: { slot: Slot; position: number }[]): void {
    for (const { row, slot, tokenId } of plan.scores) {
      const computed = rows[row];
      check(
        computed !== undefined && computed.slot === this.slotAt(slot),
        'a score reads a row of its sequence',
      );
      const next = computed.slot.request.promptTokenIds[computed.position + 1];
      check(next === tokenId, 'a score is of the prompt token after its row');
    }
  }

  private address(slot: Slot, position: number): number {
    const { blockSize } = this.limits;
    const block = slot.table[Math.floor(position / blockSize)];
    check(block !== undefined, `position ${position} has a block`);
    return block * blockSize + (position % blockSize);
  }

  private slotAt(index: number): Slot {
    const slot = this.slots[index];
    check(slot !== undefined, `slot ${index} has been opened`);
    return slot;
  }
}
