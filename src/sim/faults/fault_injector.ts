// Carries out the faults that a run's swarm draws: at moments between two calls, and on steps and their results.

import { ErrorCode, Work } from '../../generated/index.js';
import type { Account } from '../account.js';
import { type CheckedCore, GOOD_FATE, type ResultFate } from '../checked_core.js';
import type { Random } from '../random.js';
import { emptyAnswer, ResultWriter } from '../result_writer.js';
import type { RunConfig } from '../run_config.js';
import type { StepInFlight } from '../step_in_flight.js';
import type { VirtualTime } from '../virtual_time.js';
import type { Clients } from './clients.js';
import { impossibleRequest, malformedRequest } from './spoilt_requests.js';
import { COMMAND_FAULTS, type CommandFault, type FaultKind, type Swarm } from './swarm.js';
import type { Trainer } from './trainer.js';

export interface InjectorParts {
  core: CheckedCore;
  clients: Clients;
  trainer: Trainer;
  time: VirtualTime;
  swarm: Swarm;
  config: RunConfig;
  random: Random;
  stepUs: number;
  /** A snapshot is taken before the next turn, and a fresh core restored from it. */
  fork(): void;
}

type Acts = Readonly<Record<CommandFault, () => unknown>>;

const LATEST_STEPS = 100;
/** Above every id that is ever given out. */
const UNKNOWN_ID = 4_000_000_000;

export class FaultInjector {
  readonly #parts: InjectorParts;
  readonly #act: Acts;
  readonly #writer = new ResultWriter();
  readonly counts = new Map<FaultKind, number>();

  constructor(parts: InjectorParts) {
    this.#parts = parts;
    this.#act = this.#acts(parts);
  }

  /** Between two calls anything may come. */
  moment(): void {
    const { swarm, random } = this.#parts;
    const kind = swarm.draw(random, COMMAND_FAULTS);
    if (kind === null) return;
    this.#count(kind);
    this.#act[kind]();
  }

  #count(kind: FaultKind): void {
    this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
  }

  #acts({ core, clients, trainer, random, config, time, stepUs, fork }: InjectorParts): Acts {
    const small = () => this.#smallDraft();
    return {
      abort_one: () => this.#abort(this.#pickLive(1)),
      abort_several: () =>
        this.#abort([...this.#pickLive(random.between(2, 6)), UNKNOWN_ID + random.below(100)]),
      abort_all: () => core.apply({ type: 'abortRequests', all: true }),
      client_vanishes: () => this.#vanish(),
      pause_abort: () => trainer.pause('abort'),
      pause_wait: () => trainer.pause('wait'),
      pause_keep: () => trainer.pause('keep'),
      pause_retract: () => trainer.pause('retract'),
      reset_plain: () => core.apply({ type: 'resetPrefixCache' }),
      reset_forced: () => core.apply({ type: 'resetPrefixCache', force: true }),
      release_kv_cache: () => trainer.release(['kv_cache'], false),
      release_weights: () => trainer.release(['weights'], false),
      release_all: () => trainer.release(['kv_cache', 'weights'], false),
      release_aborting: () =>
        trainer.release(random.perMille(500) ? ['kv_cache'] : ['kv_cache', 'weights'], true),
      weight_update: () => trainer.updateWeights(true),
      weight_update_failed: () => trainer.updateWeights(false),
      weight_update_unpaused: () => trainer.replaceWeights(() => {}),
      load_adapter: () => trainer.load(random.between(0, config.numAdapters + 1)),
      unload_adapter: () => trainer.unloadForAWhile(this.#pickAdapter()),
      parallel_groups: () => core.apply({ type: 'setParallelGroups', tensorParallelSize: random.below(3) }),
      garbage_command: () => core.applyGarbage(this.#garbage()),
      malformed_request: () => clients.sendSpoilt(small(), malformedRequest(random, config.core)),
      impossible_request: () => clients.sendSpoilt(small(), impossibleRequest(random, config.core)),
      duplicate_id: () => {
        for (const id of this.#pickLive(1))
          clients.sendSpoilt(small(), { request: { id }, fault: ErrorCode.none });
      },
      flood: () => this.#flood(),
      early_shutdown: () => time.after(stepUs, () => core.apply({ type: 'shutdown' })),
      snapshot: fork,
    };
  }

  /** What happens to the oldest step in flight. Bad results come before the good one. */
  fate(step: StepInFlight): ResultFate {
    this.#offerBadResults(step);
    const { swarm, random } = this.#parts;
    if (step.work !== Work.StepPlan) {
      // A failed shutdown would leave the core shut down all the same: there is nothing to see.
      if (step.work === Work.Shutdown || !this.#happens('control_failed')) return GOOD_FATE;
      return { ...GOOD_FATE, fails: true };
    }
    if (this.#happens('step_failed')) return { ...GOOD_FATE, fails: true };
    const count = step.samples.length;
    if (count === 0) return GOOD_FATE;
    const spoil = swarm.draw(random, ['nan_logits', 'token_out_of_range']);
    if (spoil === null) return GOOD_FATE;
    this.#count(spoil);
    const spoilt = random.perMille(100) ? Array.from({ length: count }, (_, i) => i) : [random.below(count)];
    return spoil === 'nan_logits'
      ? { ...GOOD_FATE, nanSamples: spoilt }
      : { ...GOOD_FATE, outOfRangeSamples: spoilt };
  }

  /** How many times longer than usual the step takes. */
  slowness(): number {
    return this.#happens('late_result') ? this.#parts.random.between(2, LATEST_STEPS) : 1;
  }

  #happens(kind: FaultKind): boolean {
    const { swarm, random } = this.#parts;
    if (!swarm.happens(random, kind)) return false;
    this.#count(kind);
    return true;
  }

  #offerBadResults(step: StepInFlight): void {
    const { core, random } = this.#parts;
    if (core.lastResult !== null && this.#happens('duplicate_result'))
      core.commitBadly(core.lastResult, ErrorCode.result_unexpected);
    if (this.#happens('result_of_another_step')) {
      const other = step.step + random.pick([1, 2, 1000]);
      core.commitBadly(
        this.#writer.write(other, emptyAnswer(ErrorCode.none), 0),
        ErrorCode.result_unexpected,
      );
    }
    if (this.#happens('malformed_result')) this.#offerMalformed(step);
  }

  #offerMalformed(step: StepInFlight): void {
    const { core, random } = this.#parts;
    if (step.view === null || random.perMille(300)) {
      core.commitBadly(this.#garbage(), ErrorCode.result_malformed);
      return;
    }
    const count = step.samples.length;
    const wrong = count > 0 && random.perMille(500) ? count - 1 : count + 1;
    const answer = {
      ...emptyAnswer(ErrorCode.none),
      tokenIds: new Int32Array(wrong),
      logprobs: new Float32Array(wrong),
    };
    core.commitBadly(
      this.#writer.write(step.step, answer, step.view.scoreRow.length),
      ErrorCode.result_malformed,
    );
  }

  /** Bytes that are no message: the root's offset points outside. */
  #garbage(): Uint8Array {
    const { random } = this.#parts;
    const bytes = Uint8Array.from({ length: random.between(0, 64) }, () => random.below(256));
    if (bytes.length >= 4) bytes[3] = 0x7f;
    return bytes;
  }

  #pickLive(count: number): number[] {
    const { core, random } = this.#parts;
    const ids = [...core.ledger.live.keys()];
    return ids.length === 0 ? [] : Array.from({ length: count }, () => random.pick(ids));
  }

  /** One that no live request names, if there is any: others can't be unloaded. */
  #pickAdapter(): number {
    const { core, random, config } = this.#parts;
    const used = new Set(Array.from(core.ledger.live.values(), ({ draft }) => draft.adapter ?? 0));
    const unused = [...core.engine.adapters].filter((adapter) => !used.has(adapter));
    return unused.length > 0 ? random.pick(unused) : random.between(1, config.numAdapters + 1);
  }

  #abort(requestIds: number[]): void {
    this.#parts.core.apply({ type: 'abortRequests', requestIds });
  }

  /** A client goes without a word; that it has gone is noticed later, and its requests are aborted together. */
  #vanish(): void {
    const { core, clients, random, time, stepUs } = this.#parts;
    const accounts: Account[] = [...core.ledger.live.values()];
    if (accounts.length === 0) return;
    const { client } = random.pick(accounts).draft;
    clients.vanish(client);
    time.after(random.between(0, 10) * stepUs, () => this.#abort(clients.vanish(client)));
  }

  #smallDraft() {
    const { random, config } = this.#parts;
    const { maxModelLen, numBlocks, blockSize, vocabSize } = config.core;
    const most = Math.max(1, Math.min(12, maxModelLen - 1, numBlocks * blockSize - 1));
    const length = random.between(1, most);
    return {
      client: -1,
      promptTokenIds: Int32Array.from({ length }, () => random.below(vocabSize)),
      lengths: [random.between(1, 12)],
      maxTokens: random.between(1, 16),
    };
  }

  /** More requests at once than the core holds. */
  #flood(): void {
    const { config, clients } = this.#parts;
    const count = config.core.maxNumRequests + 2;
    for (let sent = 0; sent < count; sent += 16)
      clients.send(
        Array.from({ length: Math.min(16, count - sent, config.core.maxNumRequests) }, () =>
          this.#smallDraft(),
        ),
      );
  }
}
