// Holds the core's statistics against the clients' books, after every call: blocks add up, live requests and samples
// are those that the clients know, every token is counted once.

import * as flatbuffers from 'flatbuffers';
import type { WasmCore } from '../../core/index.js';
import { Stats } from '../../generated/index.js';
import { fail } from '../failure.js';
import type { SimulatedHost } from '../host/simulated_host.js';
import type { Ledger } from '../ledger.js';

/** What keeps steps from being planned, as the core said it last. */
export interface EngineFlags {
  isPaused: boolean;
  isUpdating: boolean;
  hasWeights: boolean;
  /** MemoryTags. */
  released: number;
  isShutDown: boolean;
}

/** What the books need to know beside the ledger. */
export interface Expected {
  numSteps: number;
  numInFlight: number;
  numRows: number;
}

export class BookChecker {
  readonly #ledger: Ledger;
  readonly #host: SimulatedHost;
  readonly #stats = new Stats();
  #numPreemptions = 0;
  promptTokens = 0;
  cachedPromptTokens = 0;
  flags: EngineFlags = {
    isPaused: false,
    isUpdating: false,
    hasWeights: true,
    released: 0,
    isShutDown: false,
  };

  constructor(ledger: Ledger, host: SimulatedHost) {
    this.#ledger = ledger;
    this.#host = host;
  }

  /** Whether something that a client or the trainer did keeps steps from being planned. */
  get isHeldBack(): boolean {
    const { isPaused, isUpdating, hasWeights, released, isShutDown } = this.flags;
    return isPaused || isUpdating || !hasWeights || released !== 0 || isShutDown;
  }

  get preemptions(): number {
    return this.#numPreemptions;
  }

  /** The core's statistics; valid until the next call. */
  read(core: Pick<WasmCore, 'stats'>): Stats {
    const stats = Stats.getRootAsStats(new flatbuffers.ByteBuffer(core.stats()), this.#stats);
    this.flags = {
      isPaused: stats.paused(),
      isUpdating: stats.updatingWeights(),
      hasWeights: stats.weightsUsable(),
      released: Number(stats.released()),
      isShutDown: stats.shutDown(),
    };
    return stats;
  }

  check(core: Pick<WasmCore, 'stats'>, { numSteps, numInFlight, numRows }: Expected): void {
    const stats = this.read(core);
    const ledger = this.#ledger;
    const free = stats.numFreeBlocks();
    const cached = stats.numCachedBlocks();
    const held = stats.numHeldBlocks();
    const live = stats.numRunning() + stats.numWaiting();
    must('blocks: free + cached + held', free + cached + held, stats.numBlocks());
    must('instructions', Number(stats.step()), numSteps);
    must('steps in flight', stats.numStepsInFlight(), numInFlight);
    must('live requests', stats.numRequests(), ledger.live.size);
    must('running and waiting samples', live, ledger.numLiveSamples);
    must('delivered tokens', Number(stats.generationTokens()), ledger.numDelivered);
    must('ended samples', Number(stats.finishedSamples()), ledger.numEnded);
    must('computed rows', Number(stats.computedTokens()), numRows);
    if (Number(stats.weightVersion()) !== this.#host.weightVersion)
      fail(
        'weights',
        `The core says version ${stats.weightVersion()}; the host has loaded ${this.#host.weightVersion}.`,
      );
    const preemptions = Number(stats.numPreemptions());
    if (preemptions < this.#numPreemptions)
      fail('books', `${preemptions} preemptions were counted after ${this.#numPreemptions}.`);
    this.#numPreemptions = preemptions;
    this.promptTokens = Number(stats.promptTokens());
    this.cachedPromptTokens = Number(stats.cachedPromptTokens());
    if (this.cachedPromptTokens > this.promptTokens)
      fail('books', 'More prompt tokens were spared by the prefix cache than were asked for.');
  }

  /** Everything is over: nobody holds anything. */
  checkEmpty(core: Pick<WasmCore, 'stats'>): void {
    const stats = this.read(core);
    must('held blocks when all is over', stats.numHeldBlocks(), 0);
    must('bytes of token memory when all is over', Number(stats.tokenHeapUsedBytes()), 0);
    must('live requests when all is over', stats.numRequests(), 0);
  }
}

function must(what: string, told: number, known: number): void {
  if (told !== known) fail('books', `${what}: the core counts ${told}, and there are ${known}.`);
}
