// Swarm testing: each run draws which faults it has and how often, so that some runs have many of a kind and others
// none at all.

import type { Random } from '../random.js';

/** Done by a command at any moment between two calls. */
export const COMMAND_FAULTS = [
  'abort_one',
  'abort_several',
  'abort_all',
  'client_vanishes',
  'pause_abort',
  'pause_wait',
  'pause_keep',
  'pause_retract',
  'reset_plain',
  'reset_forced',
  'release_kv_cache',
  'release_weights',
  'release_all',
  'release_aborting',
  'weight_update',
  'weight_update_failed',
  'weight_update_unpaused',
  'load_adapter',
  'unload_adapter',
  'parallel_groups',
  'garbage_command',
  'malformed_request',
  'impossible_request',
  'duplicate_id',
  'flood',
  'early_shutdown',
  'snapshot',
] as const;

/** Done to a step or to its result. */
export const RESULT_FAULTS = [
  'step_failed',
  'control_failed',
  'nan_logits',
  'token_out_of_range',
  'late_result',
  'duplicate_result',
  'result_of_another_step',
  'malformed_result',
] as const;

export type CommandFault = (typeof COMMAND_FAULTS)[number];
export type ResultFault = (typeof RESULT_FAULTS)[number];
export type FaultKind = CommandFault | ResultFault | 'trace_cut';

/** Faults that end or stall much of a run are drawn less often, in thousandths of the rate of others. */
const RARE: Readonly<Partial<Record<FaultKind, number>>> = {
  abort_all: 150,
  pause_abort: 200,
  release_aborting: 200,
  early_shutdown: 8,
  flood: 200,
  snapshot: 200,
};

const MOST_PER_MILLE = 12;
/** Runs that cut a trace write one, which costs time. */
const TRACE_CUT_RUNS_PER_MILLE = 20;

/** The faults of one run, with rates in millionths of a moment. */
export class Swarm {
  readonly #rates = new Map<FaultKind, number>();
  readonly cutsTrace: boolean;

  constructor(random: Random, isOn: boolean) {
    for (const kind of [...COMMAND_FAULTS, ...RESULT_FAULTS]) {
      // Drawn in any case, so that a fault added here moves no other.
      const isDrawn = random.perMille(450);
      const rate = random.between(1, MOST_PER_MILLE) * (RARE[kind] ?? 1000);
      if (isOn && isDrawn) this.#rates.set(kind, rate);
    }
    this.cutsTrace = isOn && random.perMille(TRACE_CUT_RUNS_PER_MILLE);
  }

  /** The fault of this moment among these kinds, mostly none. */
  draw<K extends FaultKind>(random: Random, kinds: readonly K[]): K | null {
    let at = random.below(1_000_000);
    for (const kind of kinds) {
      at -= this.#rates.get(kind) ?? 0;
      if (at < 0) return kind;
    }
    return null;
  }

  happens(random: Random, kind: FaultKind): boolean {
    return random.below(1_000_000) < (this.#rates.get(kind) ?? 0);
  }
}
