// What happened in a recorded run: one pass over its trace, through the core. The steps as a table, the life of each request, the commands and
// what became of them, the core's own totals. Memory: 64 bytes a step, and what the requests' lives take (a span per prefill chunk, per
// preemption and per run of decode steps); tokens and plans are not kept.

import { fromWide, messageBuffer } from '../../core/flat.js';
import {
  decodeInstruction,
  decodeOutput,
  decodeResult,
  decodeStats,
  type InstructionObject,
  type OutputObject,
  type ResolvedCoreConfig,
  type ResultObject,
  type StatsObject,
} from '../../core/index.js';
import { codeName } from '../../core/results.js';
import * as wire from '../../generated/index.js';
import type { TraceHeader } from '../payload.js';
import type { StepEvent } from '../read_steps.js';
import { type CommandEvent, TraceReader } from '../reader.js';
import { decodeCommand } from './history_commands.js';
import {
  endSamples,
  type Owner,
  RequestBook,
  type RequestLife,
  type SampleLife,
} from './history_requests.js';
import { StepTable } from './history_steps.js';
import { openWalk, type TraceVisitor, type TraceWalk, type WalkEnd } from './history_walk.js';

type Id = number | bigint;

export interface CommandLife {
  id: Id;
  type: string;
  words: string;
  timeUs: number;
  /** The step that was committed last when it was applied. */
  afterStep: number;
  /** 'none': carried out; another code: refused; null: neither when the trace ends. */
  code: string | null;
  ackUs: number | null;
  /** Sequences that it sent back to wait. */
  preemptions: number;
}

/** One step in full. */
export interface StepDetail {
  instruction: InstructionObject;
  result: Required<ResultObject>;
  output: OutputObject;
  /** Whose each slot is while the step is computed. */
  owners: ReadonlyMap<number, Owner>;
  /** Right after it was planned. */
  stats: StatsObject;
}

export interface History {
  path: string;
  header: TraceHeader;
  config: ResolvedCoreConfig;
  coreSha256: string;
  end: WalkEnd;
  steps: StepTable;
  /** Steps that were planned and never committed. */
  stepsInFlight: number;
  /** By arrival; refused ones too. */
  requests: RequestLife[];
  commands: CommandLife[];
  /** At the end. */
  stats: StatsObject;
  recomputedRows: number;
  /** Of the step that was asked for; null when the trace does not come to it. */
  detail: StepDetail | null;
}

/** @param step also give this one in full, and stop there */
export async function readHistory(path: string, { step }: { step?: number } = {}): Promise<History> {
  const reader = await TraceReader.open(path);
  try {
    const walk = await openWalk(reader);
    const historian = new Historian(walk, step ?? null);
    const end = walk.run(historian);
    return { path, header: reader.header, ...historian.history(end) };
  } finally {
    reader.close();
  }
}

interface Planned {
  row: Parameters<StepTable['add']>[0];
  /** Whose token each sample of the plan is. */
  samples: SampleLife[];
  detail: Pick<StepDetail, 'instruction' | 'owners' | 'stats'> | null;
}

class Historian implements TraceVisitor {
  readonly #walk: TraceWalk;
  readonly #wanted: number | null;
  readonly #book: RequestBook;
  readonly #steps = new StepTable();
  readonly #commands: CommandLife[] = [];
  readonly #unacknowledged = new Map<Id, CommandLife>();
  readonly #inFlight: Planned[] = [];
  #numPlanned = 0;
  #preemptions = 0;
  #stats: StatsObject;
  #detail: StepDetail | null = null;

  constructor(walk: TraceWalk, wanted: number | null) {
    this.#walk = walk;
    this.#wanted = wanted;
    this.#book = new RequestBook(walk.config.maxNumSeqs);
    this.#stats = decodeStats(walk.core.stats());
  }

  history(end: WalkEnd): Omit<History, 'path' | 'header'> {
    return {
      config: this.#walk.config,
      coreSha256: this.#walk.core.sha256,
      end,
      steps: this.#steps,
      stepsInFlight: this.#inFlight.length,
      requests: this.#book.requests,
      commands: this.#commands,
      stats: end.kind === 'core_stopped' ? this.#stats : decodeStats(this.#walk.core.stats()),
      recomputedRows: this.#book.recomputedRows,
      detail: this.#detail,
    };
  }

  applied(event: CommandEvent, output: Uint8Array): void {
    const answer = rootOf(output);
    const malformed = Array.from({ length: answer.ackCommandLength() }, (_, i) => answer.ackCode(i));
    if (malformed.includes(wire.ErrorCode.malformed_message)) {
      this.#addCommand({ id: -1, type: 'malformed', words: 'a malformed command' }, event).code =
        'malformed_message';
      return;
    }
    const command = decodeCommand(event.command);
    const life = this.#addCommand(command, event);
    const added = command.requests.map((request) => this.#book.add(request, event.timeUs, event.afterStep));
    if (added.length > 0) this.#admit(added, answer, event.timeUs);
    else this.#readFinishes(answer, { step: null, timeUs: event.timeUs });
    this.#readAcks(answer, event.timeUs);
    life.preemptions = this.#notePreemptions(this.#numPlanned, event.timeUs);
  }

  planned(bytes: Uint8Array): void {
    const instruction = wire.Instruction.getRootAsInstruction(messageBuffer(bytes));
    this.#numPlanned += 1;
    const preemptions = this.#notePreemptions(this.#numPlanned, null);
    const planned: Planned = {
      row: {
        ...{ plannedUs: 0, committedUs: 0, work: 0, rows: 0, prefillRows: 0, sequences: 0, samples: 0 },
        ...{ tokens: 0, preemptions, running: this.#stats.numRunning, waiting: this.#stats.numWaiting },
        freeBlocks: this.#stats.numFreeBlocks,
        cachedBlocks: this.#stats.numCachedBlocks,
        heldBlocks: this.#stats.numHeldBlocks,
      },
      samples: [],
      detail: null,
    };
    if (instruction.workType() === wire.Work.StepPlan)
      this.#readPlan(instruction.work(new wire.StepPlan()), planned);
    else planned.row.work = instruction.workType();
    if (this.#numPlanned === this.#wanted) planned.detail = this.#detailOf(bytes);
    this.#inFlight.push(planned);
  }

  committed(event: StepEvent, output: Uint8Array): boolean {
    const { row, samples, detail } = this.#inFlight.shift()!;
    const answer = rootOf(output);
    const version = fromWide(answer.weightVersion());
    for (const index of answer.tokenRowArray() ?? []) {
      const sample = samples[index]!;
      sample.tokens += 1;
      const last = sample.weightVersions.at(-1);
      if (last?.version === version) last.tokens += 1;
      else sample.weightVersions.push({ version, tokens: 1 });
    }
    const tokens = answer.tokenRequestLength();
    this.#steps.add({ ...row, plannedUs: event.plannedUs, committedUs: event.committedUs, tokens });
    this.#readFinishes(answer, { step: event.step, timeUs: event.committedUs });
    this.#readAcks(answer, event.committedUs);
    if (detail !== null)
      this.#detail = { ...detail, result: decodeResult(event.result), output: decodeOutput(output) };
    return this.#detail === null;
  }

  #addCommand(command: { id: Id; type: string; words: string }, event: CommandEvent): CommandLife {
    const { id, type, words } = command;
    const { timeUs, afterStep } = event;
    const life = { id, type, words, timeUs, afterStep, code: null, ackUs: null, preemptions: 0 };
    this.#commands.push(life);
    this.#unacknowledged.set(id, life);
    return life;
  }

  /** New requests are accepted unless the answer refuses them, in the order in which they were added. */
  #admit(added: readonly RequestLife[], answer: wire.Output, timeUs: number): void {
    let refusal = 0;
    for (const request of added) {
      const isRefused =
        refusal < answer.finishRequestLength() && fromWide(answer.finishRequest(refusal)!) === request.id;
      const inUse = isRefused && answer.finishCode(refusal) === wire.ErrorCode.request_id_in_use;
      if (isRefused && inUse === this.#book.isLive(request.id)) {
        endSamples(request, this.#finishAt(answer, refusal, { step: null, timeUs }));
        refusal += 1;
      } else {
        this.#book.accept(request);
      }
    }
  }

  #readPlan(plan: wire.StepPlan, { row, samples }: Planned): void {
    const step = this.#numPlanned;
    if (plan.openSlotLength() > 0) this.#readOpens(plan, step);
    const [slots, starts] = [plan.sequenceSlotArray(), plan.sequenceStartArray()];
    const counts = plan.sequenceNumTokensArray();
    row.sequences = slots?.length ?? 0;
    for (let i = 0; i < row.sequences; i += 1) {
      const rows = counts![i]!;
      row.rows += rows;
      if (this.#book.compute(slots![i]!, step, { start: starts![i]!, rows })) row.prefillRows += rows;
    }
    for (const slot of plan.sampleSlotArray() ?? []) samples.push(this.#book.sampled(slot, step));
    row.samples = samples.length;
  }

  /** The wire names slots, not requests: the core says who sits in them. */
  #readOpens(plan: wire.StepPlan, step: number): void {
    const { seats, inventory } = this.#seats();
    for (const slot of plan.openSlotArray() ?? []) {
      const at = seats.get(slot);
      if (at === undefined) throw new Error(`step ${step} opens slot ${slot}, where nobody sits`);
      this.#book.open(slot, fromWide(inventory.sequenceRequest(at)!), inventory.sequenceSample(at)!, step);
    }
  }

  #seats(): { seats: Map<number, number>; inventory: wire.Inventory } {
    const inventory = wire.Inventory.getRootAsInventory(messageBuffer(this.#walk.core.inventory()));
    const [states, slots] = [inventory.sequenceStateArray(), inventory.sequenceSlotArray()];
    const seats = new Map<number, number>();
    for (const [at, state] of (states ?? []).entries()) {
      if (state === wire.SequenceState.running || state === wire.SequenceState.follower)
        seats.set(slots![at]!, at);
    }
    return { seats, inventory };
  }

  /** Reads the core's counts; who was preempted since the last time is noted. Gives how many that were. */
  #notePreemptions(step: number, atUs: number | null): number {
    this.#stats = decodeStats(this.#walk.core.stats());
    const count = this.#stats.numPreemptions - this.#preemptions;
    this.#preemptions = this.#stats.numPreemptions;
    if (count === 0) return 0;
    const { seats, inventory } = this.#seats();
    const isSeated = (slot: number, { request, sample }: Owner) => {
      const at = seats.get(slot);
      return (
        at !== undefined &&
        fromWide(inventory.sequenceRequest(at)!) === request &&
        inventory.sequenceSample(at) === sample
      );
    };
    this.#book.preempt(isSeated, step, atUs);
    return count;
  }

  #readFinishes(answer: wire.Output, when: { step: number | null; timeUs: number }): void {
    for (let i = 0; i < answer.startRequestLength(); i += 1)
      this.#book.started(fromWide(answer.startRequest(i)!), answer.startCachedTokens(i)!);
    for (let i = 0; i < answer.finishRequestLength(); i += 1)
      this.#book.finish(fromWide(answer.finishRequest(i)!), this.#finishAt(answer, i, when));
  }

  #finishAt(answer: wire.Output, i: number, when: { step: number | null; timeUs: number }) {
    const reason = wire.FinishReason[answer.finishReason(i)!] ?? 'none';
    const end = {
      reason,
      stopToken: reason === 'stop' ? answer.finishStopToken(i)! : null,
      code: reason === 'error' ? codeName(answer.finishCode(i)!) : null,
      ...when,
    };
    return { first: answer.finishSample(i)!, count: answer.finishCount(i)!, end };
  }

  #readAcks(answer: wire.Output, timeUs: number): void {
    for (let i = 0; i < answer.ackCommandLength(); i += 1) {
      const life = this.#unacknowledged.get(fromWide(answer.ackCommand(i)!));
      if (life === undefined) continue;
      life.code = codeName(answer.ackCode(i)!);
      life.ackUs = timeUs;
      this.#unacknowledged.delete(life.id);
    }
  }

  #detailOf(bytes: Uint8Array): Planned['detail'] {
    const owners = new Map<number, Owner>();
    for (let slot = 0; slot < this.#walk.config.maxNumSeqs; slot += 1) {
      const owner = this.#book.ownerOf(slot);
      if (owner !== null) owners.set(slot, owner);
    }
    return { instruction: decodeInstruction(bytes), owners, stats: this.#stats };
  }
}

function rootOf(output: Uint8Array): wire.Output {
  return wire.Output.getRootAsOutput(messageBuffer(output));
}
