// Every call on the core, with everything that is checked around it: commands, scheduling rounds, results good and
// bad.
//
// Whoever runs a simulation says what happens and when; here it is made to happen, and the first thing that does not
// hold throws a CheckFailed. After each call the core's own books are walked (checkIntegrity) and held against the
// clients'.

import * as flatbuffers from 'flatbuffers';
import {
  type CommandBody,
  encodeCommand,
  type RequestObject,
  type ResolvedCoreConfig,
} from '../core/index.js';
import {
  ErrorCode,
  FinishReason,
  FinishWeightUpdate,
  Instruction,
  LoadAdapter,
  MemoryTags,
  ReleaseMemory,
  ResumeMemory,
  UnloadAdapter,
  Work,
} from '../generated/index.js';
import type { Account } from './account.js';
import { AcknowledgementChecker } from './checkers/acknowledgements.js';
import { BookChecker } from './checkers/books.js';
import { type Answer, DeliveryChecker } from './checkers/delivery.js';
import { PlanChecker } from './checkers/plans.js';
import type { DrivenCore } from './core_port.js';
import { EngineState } from './engine_state.js';
import { CheckFailed, fail } from './failure.js';
import { SimulatedHost } from './host/simulated_host.js';
import type { Ledger } from './ledger.js';
import { describeFinish, type OutputView, viewOutput } from './outputs.js';
import { emptyAnswer, ResultWriter } from './result_writer.js';
import type { StepInFlight } from './step_in_flight.js';
import { viewPlan } from './step_plan.js';

/** A request on its way, and what is wrong with it (`none`: nothing). */
export interface Arrival {
  account: Account;
  request: RequestObject;
  fault: ErrorCode;
}

/** What happens to the oldest step in flight. */
export interface ResultFate {
  /** The step, or the control instruction, fails as a whole. */
  fails: boolean;
  nanSamples: readonly number[];
  outOfRangeSamples: readonly number[];
}

export const GOOD_FATE: ResultFate = { fails: false, nanSamples: [], outOfRangeSamples: [] };

export class CheckedCore {
  readonly ledger: Ledger;
  readonly host: SimulatedHost;
  readonly books: BookChecker;
  readonly engine: EngineState;
  readonly inFlight: StepInFlight[] = [];
  /** Instructions so far. */
  numSteps = 0;
  lastResult: Uint8Array | null = null;
  readonly #core: DrivenCore;
  readonly #config: ResolvedCoreConfig;
  readonly #plans: PlanChecker;
  readonly #delivery: DeliveryChecker;
  readonly #acknowledgements = new AcknowledgementChecker();
  readonly #results = new ResultWriter();
  #nextCommandId = 1;

  constructor(core: DrivenCore, config: ResolvedCoreConfig, ledger: Ledger) {
    this.#core = core;
    this.#config = config;
    this.ledger = ledger;
    const vocabulary = { size: config.vocabSize, eosTokenIds: [...config.eosTokenIds] };
    this.host = new SimulatedHost(config, vocabulary, (seed) => ledger.bySeed.get(seed));
    this.#plans = new PlanChecker(config, ledger, this.host);
    this.#delivery = new DeliveryChecker(ledger, { vocabulary, hasSmallHeap: config.tokenHeapBytes > 0 });
    this.books = new BookChecker(ledger, this.host);
    this.engine = new EngineState(ledger, config);
    this.books.read(core);
  }

  /** Sends requests in one command. Each is accepted, or refused with the code that it must be. */
  add(arrivals: readonly Arrival[]): void {
    const { flags } = this.books;
    for (const { account } of arrivals) this.ledger.bySeed.set(account.seed, account);
    const { out, code } = this.#send({
      type: 'addRequests',
      requests: arrivals.map(({ request }) => request),
    });
    if (code !== ErrorCode.none) fail('acknowledgements', `Requests were answered with code ${code}.`);
    let at = this.#takeHeapEnds(out);
    for (const { account, fault } of arrivals) {
      const due = this.engine.verdictOn(account, fault, flags);
      const told = out.finishes[at];
      const isRefused =
        told?.request === account.id && told.sample === 0 && told.reason === FinishReason.error;
      const code = isRefused ? told.code : ErrorCode.none;
      const isForHeap = this.#config.tokenHeapBytes > 0 && due === ErrorCode.none && isHeapCode(code);
      if (code !== due && !isForHeap)
        fail('ends', `Request ${account.id} must be answered with code ${due}, and was with ${code}.`);
      if (!isRefused) {
        this.ledger.accept(account, this.engine.isDraining);
        continue;
      }
      if (told.count !== account.samples.length && fault !== ErrorCode.invalid_n)
        fail('ends', `A refusal ends ${told.count} samples of request ${account.id}.`);
      this.ledger.refuse(account);
      at += 1;
    }
    if (at !== out.finishes.length) fail('ends', `Nothing ended this: ${describeFinish(out.finishes[at]!)}.`);
    this.#settle();
  }

  /** Any other command. Gives the code of its acknowledgement, null when that is to come. */
  apply(command: Exclude<CommandBody, { type: 'addRequests' }>): ErrorCode | null {
    const due = this.engine.abortedBy(command);
    const { out, code } = this.#send(command);
    const isAccepted = code === null || code === ErrorCode.none;
    let at = this.#takeHeapEnds(out);
    for (; at < out.finishes.length; at++) {
      const finish = out.finishes[at]!;
      const isDue = isAccepted && due.some(({ id }) => id === finish.request);
      if (!isDue || finish.reason !== FinishReason.abort)
        fail('ends', `A ${command.type} does not explain this end: ${describeFinish(finish)}.`);
      this.#delivery.end(finish);
    }
    if (isAccepted)
      for (const account of due)
        if (account.numLive > 0)
          fail(
            'ends',
            `A ${command.type} aborts request ${account.id}, and ${account.numLive} samples go on.`,
          );
    if (isAccepted) this.engine.accepted(command);
    this.#settle();
    return code;
  }

  /** Bytes that are no command: refused, and nothing else. */
  applyGarbage(bytes: Uint8Array): void {
    const out = viewOutput(this.#core.apply(bytes));
    this.#takeStarts(out);
    this.#mustRefuse(out, ErrorCode.malformed_message);
    this.#settle();
  }

  /** Plans what can be planned now. Gives the new steps. */
  scheduleRound(): StepInFlight[] {
    const planned: StepInFlight[] = [];
    for (let bytes = this.#core.schedule(); bytes !== null; bytes = this.#core.schedule()) {
      this.numSteps += 1;
      const instruction = Instruction.getRootAsInstruction(new flatbuffers.ByteBuffer(bytes));
      const step = this.#read(instruction);
      this.inFlight.push(step);
      planned.push(step);
    }
    if (this.inFlight.length > this.#config.maxStepsInFlight)
      fail('budget', `${this.inFlight.length} steps are in flight; ${this.#config.maxStepsInFlight} may be.`);
    if (planned.length > 0) this.#settle();
    return planned;
  }

  #read(instruction: Instruction): StepInFlight {
    const work = instruction.workType();
    const base = {
      step: Number(instruction.step()),
      weightVersion: Number(instruction.weightVersion()),
      instruction,
      work,
      doneAtUs: 0,
    };
    if (base.step !== this.numSteps)
      fail('books', `Instruction ${this.numSteps} says that it is number ${base.step}.`);
    if (work !== Work.StepPlan) return { ...base, view: null, sequences: [], samples: [], opened: [] };
    if (this.books.isHeldBack)
      fail(
        'host',
        `Step ${base.step} is planned while generation is paused, released, updating or unusable.`,
      );
    const view = viewPlan(instruction);
    return { ...base, view, ...this.#plans.planned(view) };
  }

  /** The oldest step in flight is executed and its result committed. */
  commitOldest(fate: ResultFate): void {
    const step = this.inFlight.shift();
    if (step === undefined) throw new Error('nothing is in flight');
    const answer = step.view === null ? this.#control(step, fate) : this.#execute(step, fate);
    const bytes = this.#results.write(step.step, answer, step.view?.scoreRow.length ?? 0);
    this.lastResult = bytes;
    const out = viewOutput(this.#core.commit(bytes));
    this.#takeStarts(out);
    if (step.view === null) this.#controlCommitted(step, answer.code, out);
    else this.#delivery.committed(step, answer, out, this.host.weightVersion);
    this.#acknowledgements.take(out, null);
    this.#settle();
  }

  /** A result that belongs to no step in flight, or is no result: refused, and without any effect. */
  commitBadly(bytes: Uint8Array, code: ErrorCode): void {
    const before = this.#core.stats().slice();
    const out = viewOutput(this.#core.commit(bytes));
    this.#takeStarts(out);
    this.#mustRefuse(out, code);
    if (Buffer.compare(before, this.#core.stats()) !== 0)
      fail('refused results', `A result that was refused with code ${code} changed the core's state.`);
    this.#settle();
  }

  #mustRefuse({ output, numTokens, finishes, step }: OutputView, code: ErrorCode): void {
    const isRefused =
      output.ackCommandLength() === 1 && output.ackCommand(0) === 0n && output.ackCode(0) === code;
    if (!isRefused || numTokens > 0 || finishes.length > 0 || step !== 0)
      fail(
        'refused results',
        `What should be refused with code ${code} got code ${output.ackCode(0)}, ${numTokens} tokens.`,
      );
  }

  #execute(step: StepInFlight, { fails, nanSamples, outOfRangeSamples }: ResultFate): Answer {
    const { tokenIds, logprobs } = this.host.execute(step.view!, { fails, nanSamples });
    if (fails) return emptyAnswer(ErrorCode.step_failed);
    if (nanSamples.length === 0 && outOfRangeSamples.length === 0)
      return { code: ErrorCode.none, tokenIds, logprobs, rowCodes: [] };
    const spoilt = tokenIds.slice();
    const rowCodes = nanSamples.length === 0 ? [] : Array.from(tokenIds, () => ErrorCode.none);
    for (const sample of outOfRangeSamples)
      spoilt[sample] = sample % 2 === 0 ? this.#config.vocabSize : -5 - sample;
    for (const sample of nanSamples) {
      spoilt[sample] = -1;
      rowCodes[sample] = ErrorCode.nan_logits;
    }
    return { code: ErrorCode.none, tokenIds: spoilt, logprobs, rowCodes };
  }

  #control({ instruction, work }: StepInFlight, { fails }: ResultFate): Answer {
    const { host } = this;
    if (work === Work.BeginWeightUpdate && !fails) host.beginWeightUpdate();
    if (work === Work.FinishWeightUpdate) {
      const finish = instruction.work(new FinishWeightUpdate()) as FinishWeightUpdate;
      host.finishWeightUpdate(Number(finish.version()), finish.succeeded() && !fails);
    }
    if (fails) return emptyAnswer(ErrorCode.step_failed);
    if (work === Work.ReleaseMemory)
      host.releaseMemory(
        (instruction.work(new ReleaseMemory()) as ReleaseMemory).tags(),
        MemoryTags.kv_cache,
      );
    if (work === Work.ResumeMemory)
      host.resumeMemory((instruction.work(new ResumeMemory()) as ResumeMemory).tags());
    if (work === Work.LoadAdapter)
      host.loadAdapter((instruction.work(new LoadAdapter()) as LoadAdapter).adapter());
    if (work === Work.UnloadAdapter)
      host.unloadAdapter((instruction.work(new UnloadAdapter()) as UnloadAdapter).adapter());
    return emptyAnswer(ErrorCode.none);
  }

  #controlCommitted({ step }: StepInFlight, code: ErrorCode, out: OutputView): void {
    if (out.step !== step || out.numTokens > 0)
      fail('delivery', `Control instruction ${step} delivers ${out.numTokens} tokens, of step ${out.step}.`);
    let due: Account[] = [];
    if (code === ErrorCode.none) this.engine.carriedOut();
    else due = this.engine.failed();
    for (let at = this.#takeHeapEnds(out); at < out.finishes.length; at++) {
      const finish = out.finishes[at]!;
      const isDue = due.some(({ id }) => id === finish.request);
      if (!isDue || finish.reason !== FinishReason.error || finish.code !== ErrorCode.unknown_adapter)
        fail('ends', `Control instruction ${step} does not explain this end: ${describeFinish(finish)}.`);
      this.#delivery.end(finish);
    }
    for (const { id, numLive } of due)
      if (numLive > 0) fail('ends', `The adapter of request ${id} could not be loaded, and it goes on.`);
  }

  #send(command: CommandBody): { out: OutputView; code: ErrorCode | null } {
    const id = this.#nextCommandId;
    this.#nextCommandId += 1;
    this.#acknowledgements.sent(id, command.type);
    const out = viewOutput(this.#core.apply(encodeCommand(id, command)));
    if (out.numTokens > 0) fail('delivery', `A ${command.type} delivers ${out.numTokens} tokens.`);
    this.#takeStarts(out);
    return { out, code: this.#acknowledgements.take(out, id) };
  }

  #takeStarts({ output }: OutputView): void {
    for (let i = 0; i < output.startRequestLength(); i++) {
      const id = Number(output.startRequest(i)!);
      const account = this.ledger.live.get(id);
      if (!account?.isStarted || account.startWasTold || output.startCachedTokens(i) !== account.cachedTokens)
        fail(
          'delivery',
          `Request ${id} is told to start with ${output.startCachedTokens(i)} cached tokens; its plan says ${account?.cachedTokens}.`,
        );
      account.startWasTold = true;
    }
  }

  /** Ends for want of token memory come with whatever output is next. Gives how many there were. */
  #takeHeapEnds({ finishes }: OutputView): number {
    let at = 0;
    for (; this.#config.tokenHeapBytes > 0 && at < finishes.length; at++) {
      const finish = finishes[at]!;
      if (finish.code !== ErrorCode.out_of_token_memory || !this.ledger.live.has(finish.request)) break;
      this.#delivery.end(finish);
    }
    return at;
  }

  #settle(): void {
    try {
      this.#core.checkIntegrity();
    } catch (error) {
      throw new CheckFailed('integrity', error instanceof Error ? error.message : String(error));
    }
    this.books.check(this.#core, {
      numSteps: this.numSteps,
      numInFlight: this.inFlight.length,
      numRows: this.#plans.numRows,
    });
    this.engine.settle(this.books.flags);
  }

  /** Everything is over. */
  checkEnd(): void {
    this.#acknowledgements.checkNonePending();
    this.books.checkEmpty(this.#core);
    if (this.ledger.live.size > 0) fail('liveness', `${this.ledger.live.size} requests never ended.`);
  }
}

function isHeapCode(code: ErrorCode): boolean {
  return code === ErrorCode.queue_full || code === ErrorCode.out_of_token_memory;
}
