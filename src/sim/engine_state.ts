// What the trainer has done to the engine, as far as commands and acknowledgements tell: pauses, adapters, control
// commands under way. From it follows which refusals are right.

import type { CommandBody, ResolvedCoreConfig } from '../core/index.js';
import { ErrorCode } from '../generated/index.js';
import type { Account } from './account.js';
import type { EngineFlags } from './checkers/books.js';
import { fail } from './failure.js';
import type { Ledger } from './ledger.js';

interface PendingControl {
  type: CommandBody['type'];
  adapter: number;
}

/** Commands that become an instruction of their own. */
const CONTROLS: ReadonlySet<CommandBody['type']> = new Set([
  'beginWeightUpdate',
  'finishWeightUpdate',
  'releaseMemory',
  'resumeMemory',
  'loadAdapter',
  'unloadAdapter',
  'setParallelGroups',
  'shutdown',
]);

export class EngineState {
  readonly #ledger: Ledger;
  readonly #config: ResolvedCoreConfig;
  #pause: 'none' | 'draining' | 'paused' = 'none';
  readonly #controls: PendingControl[] = [];
  /** As if every accepted command had been carried out. */
  readonly adapters = new Set<number>();

  constructor(ledger: Ledger, config: ResolvedCoreConfig) {
    this.#ledger = ledger;
    this.#config = config;
  }

  get isDraining(): boolean {
    return this.#pause === 'draining';
  }

  get numControls(): number {
    return this.#controls.length;
  }

  /** The live requests that this command, once accepted, ends. */
  abortedBy(command: CommandBody): Account[] {
    const all = () => [...this.#ledger.live.values()];
    if (command.type === 'abortRequests') {
      if (command.all === true) return all();
      const ids = new Set((command.requestIds ?? []).map(Number));
      return all().filter(({ id }) => ids.has(id));
    }
    const endsAll =
      command.type === 'shutdown' ||
      (command.type === 'pauseGeneration' && command.mode === 'abort') ||
      (command.type === 'releaseMemory' && command.abortRunning === true);
    return endsAll ? all() : [];
  }

  /** A command was accepted, and those that it ends have been told. */
  accepted(command: CommandBody): void {
    if (CONTROLS.has(command.type))
      this.#controls.push({ type: command.type, adapter: 'adapter' in command ? command.adapter : 0 });
    if (command.type === 'pauseGeneration') {
      if (command.mode !== 'wait') this.#pause = 'paused';
      else if (this.#pause === 'none') this.#pause = 'draining';
      if (command.mode === 'retract') this.#ledger.preemptAll();
    } else if (command.type === 'resumeGeneration') {
      this.#pause = 'none';
      this.#ledger.releaseHeld();
    } else if (command.type === 'resetPrefixCache') {
      this.#ledger.preemptAll();
    } else if (command.type === 'releaseMemory' && command.tags.includes('kv_cache')) {
      this.#ledger.preemptAll();
    } else if (command.type === 'loadAdapter') {
      this.adapters.add(command.adapter);
    } else if (command.type === 'unloadAdapter') {
      this.adapters.delete(command.adapter);
    }
  }

  /** A control instruction was carried out. */
  carriedOut(): void {
    this.#controls.shift();
  }

  /**
   * One failed, and with it all that were accepted on its success; a shutdown at their end stands. Gives the requests
   * that it ends.
   */
  failed(): Account[] {
    const last = this.#controls.at(-1);
    const keepsLast = this.#controls.length > 1 && last?.type === 'shutdown';
    const lost = new Set<number>();
    const failing = keepsLast ? this.#controls.slice(0, -1) : this.#controls.slice();
    for (const { type, adapter } of failing.reverse()) {
      if (type === 'unloadAdapter') this.adapters.add(adapter);
      if (type !== 'loadAdapter') continue;
      this.adapters.delete(adapter);
      lost.add(adapter);
    }
    this.#controls.splice(0, this.#controls.length - (keepsLast ? 1 : 0));
    return [...this.#ledger.live.values()].filter(({ draft }) => lost.has(draft.adapter ?? 0));
  }

  /** After each call: a drain may be over, and the core must say that it is paused exactly when it is. */
  settle({ isPaused }: EngineFlags): void {
    if (this.#pause === 'draining' && this.#ledger.hasOnlyHeld) this.#pause = 'paused';
    if (isPaused !== (this.#pause === 'paused'))
      fail('books', `The core says paused ${isPaused}; by the commands it is ${this.#pause}.`);
  }

  /**
   * The code with which the core must refuse a request, `none`: it must accept it. `own`: what is wrong with the
   * request itself.
   */
  verdictOn(account: Account, own: ErrorCode, flags: EngineFlags): ErrorCode {
    if (flags.isShutDown) return ErrorCode.shut_down;
    const isPaused = this.#pause !== 'none';
    if (flags.released !== 0 && !isPaused) return ErrorCode.memory_released;
    if (!flags.hasWeights || (flags.isUpdating && !isPaused)) return ErrorCode.weights_unavailable;
    if (this.#ledger.live.has(account.id)) return ErrorCode.request_id_in_use;
    if (own !== ErrorCode.none) return own;
    if (this.#ledger.live.size === this.#config.maxNumRequests) return ErrorCode.queue_full;
    const adapter = account.draft.adapter ?? 0;
    return adapter !== 0 && !this.adapters.has(adapter) ? ErrorCode.unknown_adapter : ErrorCode.none;
  }
}
