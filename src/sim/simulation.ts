// One run: the real core against a simulated host, in virtual time, with the faults that its seed draws.
//
//   safety     until `steps` instructions have been committed: arrivals, faults, steps; everything is checked after every call
//   liveness   faults and arrivals stop, what was taken away is given back, and every request must end within a bound
//   end        shutdown; nobody holds anything any more
//
// The same seed and options make the same calls, byte for byte.

import { WasmCore } from '../core/index.js';
import type { Account } from './account.js';
import { CheckedCore, GOOD_FATE } from './checked_core.js';
import { CorePort, type DrivenCore } from './core_port.js';
import { CheckFailed, fail } from './failure.js';
import { Clients } from './faults/clients.js';
import { FaultInjector } from './faults/fault_injector.js';
import { Swarm } from './faults/swarm.js';
import { Trainer } from './faults/trainer.js';
import { CONTROL_US, planTimeUs, USUAL_STEP_US } from './host/step_time.js';
import { Ledger } from './ledger.js';
import { Random, Stream } from './random.js';
import { drawRunConfig, type RunConfig } from './run_config.js';
import { type RunReport, reportOf } from './run_report.js';
import type { StepInFlight } from './step_in_flight.js';
import { VirtualTime } from './virtual_time.js';
import type { FileRequest } from './workloads/file_workload.js';
import { createWorkload, WORKLOADS, type WorkloadName } from './workloads/workload.js';
import type { Workload } from './workloads/workload_site.js';

export interface SimulationOptions {
  seed: bigint;
  /** Instructions to commit before faults stop. */
  steps: number;
  /** 'any': each run draws one. */
  workload: WorkloadName | 'any' | readonly FileRequest[];
  faults: 'none' | 'swarm';
  /** Another core than the one that was built, for tests that plant a bug. */
  wasm?: Uint8Array;
  /** Sees every call on the core; for recording. Called once, before the first. */
  wrap?: (core: DrivenCore, first: WasmCore, clock: () => number) => DrivenCore;
}

/** A run of turns in which nothing can be planned and time only jumps on: then what was taken away is given back. */
const MOST_IDLE_TURNS = 48;
/** With nothing planned after so many mends, the run has seen what it can. */
const MOST_MENDS = 24;

export class Simulation {
  readonly config: RunConfig;
  readonly #options: SimulationOptions;
  readonly #time = new VirtualTime();
  readonly #swarm: Swarm;
  readonly #moments: Random;
  #port: CorePort | null = null;
  #faults: FaultInjector | null = null;
  #isForkDue = false;
  #numCommitted = 0;

  constructor(options: SimulationOptions) {
    const { seed } = options;
    this.#options = options;
    this.config = drawRunConfig(new Random(seed, Stream.config), options.faults === 'swarm');
    this.#swarm = new Swarm(new Random(seed, Stream.faultKinds), options.faults === 'swarm');
    this.#moments = new Random(seed, Stream.results);
  }

  /** Instructions committed so far: where a failure happened. */
  get numCommitted(): number {
    return this.#numCommitted;
  }

  /** Of all instructions so far. */
  get digest(): bigint {
    try {
      return this.#port?.digest() ?? 0n;
    } catch {
      return 0n; // A core that has stopped answers nothing.
    }
  }

  get swarm(): Swarm {
    return this.#swarm;
  }

  /** Throws a CheckFailed with the first thing that does not hold. */
  async run(): Promise<RunReport> {
    try {
      return await this.#run();
    } catch (error) {
      if (error instanceof CheckFailed) throw error;
      throw new CheckFailed('core', error instanceof Error ? error.message : String(error));
    }
  }

  async #run(): Promise<RunReport> {
    const { seed, wasm, wrap } = this.#options;
    const first = await WasmCore.create(this.config.core, wasm === undefined ? {} : { wasm });
    this.#port = new CorePort(first);
    const driven = wrap === undefined ? this.#port : wrap(this.#port, first, () => this.#time.nowUs);
    const sent = new Set<Account>();
    const ledger = new Ledger((account) => {
      if (account.isStarted && !account.startWasTold)
        fail('delivery', `Request ${account.id} ended, and that it had started was never told.`);
      if (sent.delete(account)) workload.ended(account);
    });
    const core = new CheckedCore(driven, this.config.core, ledger);
    const clients = new Clients(core, this.config, new Random(seed, Stream.requests));
    const trainer = new Trainer(core, {
      time: this.#time,
      random: new Random(seed, Stream.faults),
      config: this.config,
      stepUs: USUAL_STEP_US,
    });
    const workload = this.#createWorkload(clients, trainer, sent);
    this.#faults = new FaultInjector({
      core,
      clients,
      trainer,
      time: this.#time,
      swarm: this.#swarm,
      config: this.config,
      random: this.#moments,
      stepUs: USUAL_STEP_US,
      fork: () => {
        this.#isForkDue = true;
      },
    });
    trainer.loadAdapters();
    workload.begin();
    await this.#safety(core, workload, trainer);
    workload.stop();
    this.#time.cancelAll();
    trainer.mend(() => this.#settle(core));
    this.#liveness(core);
    if (!core.books.flags.isShutDown) core.apply({ type: 'shutdown' });
    this.#settle(core);
    core.checkEnd();
    return reportOf(core, { faults: this.#faults.counts, nowUs: this.#time.nowUs, digest: this.digest });
  }

  #createWorkload(clients: Clients, trainer: Trainer, sent: Set<Account>): Workload {
    const { core } = this.config;
    const random = new Random(this.#options.seed, Stream.workload);
    const { workload: asked } = this.#options;
    const kind = asked === 'any' ? random.pick(WORKLOADS) : asked;
    return createWorkload(kind, {
      random,
      time: this.#time,
      stepUs: USUAL_STEP_US,
      longest: Math.min(core.maxModelLen, core.numBlocks * core.blockSize),
      vocabSize: core.vocabSize,
      maxNumSeqs: core.maxNumSeqs,
      mostAtOnce: Math.min(3 * core.maxNumSeqs, core.maxNumRequests + 2),
      send: (drafts) => {
        const accounts = clients.send(drafts);
        for (const account of accounts) if (account.numLive > 0) sent.add(account);
        return accounts;
      },
      updateWeights: (done) => trainer.replaceWeights(done),
    });
  }

  async #safety(core: CheckedCore, workload: Workload, trainer: Trainer): Promise<void> {
    let idleTurns = 0;
    let mends = 0;
    while (this.#numCommitted < this.#options.steps && !core.books.flags.isShutDown) {
      if (this.#isForkDue) await this.#fork();
      this.#time.keepUpTo(this.#time.nowUs);
      this.#faults!.moment();
      this.#plan(core);
      if (core.inFlight.length > 0) {
        idleTurns = 0;
        this.#await(core);
        continue;
      }
      this.#requireNothingStuck(core);
      if (workload.isOver && core.ledger.live.size === 0) return;
      idleTurns += 1;
      if (this.#time.nextUs < Infinity && idleTurns < MOST_IDLE_TURNS) {
        this.#time.advanceTo(this.#time.nextUs);
        continue;
      }
      mends += 1;
      if (mends > MOST_MENDS) return;
      idleTurns = 0;
      trainer.mend(() => this.#settle(core));
    }
  }

  /** Plans until there is nothing more to plan, and says when each new step will be done. */
  #plan(core: CheckedCore): void {
    const before = core.inFlight.length;
    let doneAtUs = before === 0 ? this.#time.nowUs : core.inFlight[before - 1]!.doneAtUs;
    for (const step of core.scheduleRound()) {
      doneAtUs = Math.max(doneAtUs, this.#time.nowUs) + durationOf(step) * (this.#faults?.slowness() ?? 1);
      step.doneAtUs = doneAtUs;
    }
  }

  /** The oldest step runs. What comes meanwhile is applied before its result is committed, or after: both are hosts that exist. */
  #await(core: CheckedCore): void {
    if (this.config.appliesInFlight) this.#time.keepUpTo(core.inFlight[0]!.doneAtUs);
    this.#faults!.moment();
    if (this.config.appliesInFlight) this.#plan(core);
    const oldest = core.inFlight[0]!;
    this.#time.advanceTo(oldest.doneAtUs);
    this.#commit(core, () => core.commitOldest(this.#faults!.fate(oldest)));
  }

  #commit(core: CheckedCore, commit: () => void): void {
    const { inFlight } = core;
    const before = inFlight.length;
    commit();
    this.#numCommitted += before - inFlight.length;
  }

  /** Requests that wait while nothing runs and nothing holds them back: an error at once, never a hang. */
  #requireNothingStuck(core: CheckedCore): void {
    if (core.ledger.live.size === 0 || core.books.isHeldBack) return;
    fail(
      'liveness',
      `${core.ledger.live.size} requests are live, nothing is in flight, nothing holds them back, and no step is planned.`,
    );
  }

  /** Carries out what is in flight and every control command that waits, with no fault. */
  #settle(core: CheckedCore): void {
    for (;;) {
      for (let oldest = core.inFlight[0]; oldest !== undefined; oldest = core.inFlight[0]) {
        this.#time.advanceTo(oldest.doneAtUs);
        this.#commit(core, () => core.commitOldest(GOOD_FATE));
      }
      if (core.engine.numControls === 0) return;
      this.#plan(core);
    }
  }

  #liveness(core: CheckedCore): void {
    let tokens = 0;
    for (const { samples, numPromptTokens, mostOutputs } of core.ledger.live.values())
      tokens += samples.length * (numPromptTokens + mostOutputs);
    // Each step computes a token or more; what is preempted is computed again, some times over.
    const bound = this.#numCommitted + 100 + 20 * tokens;
    while (core.ledger.live.size > 0) {
      this.#plan(core);
      const oldest = core.inFlight[0];
      if (oldest === undefined) {
        this.#requireNothingStuck(core);
        fail(
          'liveness',
          `Faults have stopped and all was given back, yet ${core.ledger.live.size} requests are held back.`,
        );
      }
      this.#time.advanceTo(oldest.doneAtUs);
      this.#commit(core, () => core.commitOldest(GOOD_FATE));
      if (this.#numCommitted > bound)
        fail(
          'liveness',
          `${core.ledger.live.size} requests did not end within ${bound} steps after faults stopped.`,
        );
    }
  }

  async #fork(): Promise<void> {
    this.#isForkDue = false;
    const { wasm } = this.#options;
    const port = this.#port!;
    const twin = await WasmCore.fromSnapshot(port.snapshot(), wasm === undefined ? {} : { wasm });
    port.runBeside(twin, this.#moments.between(1, 60));
  }
}

function durationOf(step: StepInFlight): number {
  return step.view === null ? CONTROL_US : planTimeUs(step.view);
}
