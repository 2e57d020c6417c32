// A core that is driven by what a trace recorded, in the recorded order: the same commands, the same rounds of scheduling, the same
// results. It compares nothing; whoever drives it does, between `schedule` and `apply` or `commit`.
//
// What the core can't take (a broken invariant, a message beyond its buffers) is thrown as CoreStopped: a finding of the replay, not a
// fault of the one who replays.

import { decodeConfigure, type ResolvedCoreConfig, WasmCore } from '../../core/index.js';
import { KadenzError } from '../../errors.js';
import type { TraceHeader } from '../payload.js';
import type { CommandEvent, TraceReader } from '../reader.js';

/** An instruction that was given out and not committed. Its bytes are the core's own: valid until its commit. */
export interface PlannedStep {
  step: number;
  digest: bigint;
  instruction: Uint8Array;
}

export interface ReplayCoreOptions {
  /** Another core than the one that was built. */
  wasm?: Uint8Array | undefined;
  /** Is shown each instruction as it is given out. */
  onPlanned?: (planned: PlannedStep) => void;
}

export class CoreStopped extends Error {}

/** The configuration of a recorded run. Throws trace_corrupt when there is none. */
export function configOf(path: string, header: TraceHeader): ResolvedCoreConfig {
  const config = decodeConfigure(header.configure);
  if (config !== null) return config;
  throw new KadenzError('trace_corrupt', `${path}: its header holds no configuration of a core.`, { path });
}

export class ReplayCore {
  readonly core: WasmCore;
  readonly #onPlanned: (planned: PlannedStep) => void;
  readonly #inFlight: PlannedStep[] = [];
  readonly #roundsWithEffect: number;
  #numPlanned = 0;

  /** Throws trace_corrupt without a configuration, trace_unsupported when this core refuses the recorded one. */
  static async create(
    { path, header }: Pick<TraceReader, 'path' | 'header'>,
    { wasm, onPlanned = () => {} }: ReplayCoreOptions = {},
  ): Promise<ReplayCore> {
    const config = configOf(path, header);
    try {
      return new ReplayCore(await WasmCore.create(config, wasm === undefined ? {} : { wasm }), onPlanned);
    } catch (cause) {
      if (!(cause instanceof KadenzError) || cause.code !== 'invalid_config') throw cause;
      throw new KadenzError(
        'trace_unsupported',
        `${path}: this build's core refuses the configuration of the run. ${cause.message} The run was recorded by Kadenz ` +
          `${header.kadenzVersion}, core ${header.coreSha256.slice(0, 16)}...; replay it with that one.`,
        { path, cause },
      );
    }
  }

  private constructor(core: WasmCore, onPlanned: (planned: PlannedStep) => void) {
    this.core = core;
    this.#onPlanned = onPlanned;
    // A round gives an instruction, or takes a sequence or a request out of the running ones, or changes nothing, and then no later one
    // does. A trace that asks for four billion rounds gets those that can matter.
    const { maxStepsInFlight, maxNumSeqs, maxNumRequests } = core.config;
    this.#roundsWithEffect = maxStepsInFlight + maxNumSeqs + maxNumRequests + 1;
  }

  /** The instruction whose result is committed next; null when none is in flight. */
  get oldest(): PlannedStep | null {
    return this.#inFlight[0] ?? null;
  }

  /** Calls schedule until it gives nothing, so many times. */
  schedule(rounds: number): void {
    guarded(() => {
      for (let round = Math.min(rounds, this.#roundsWithEffect); round > 0; round -= 1) {
        for (let bytes = this.core.schedule(); bytes !== null; bytes = this.core.schedule()) {
          this.#numPlanned += 1;
          const planned = { step: this.#numPlanned, digest: this.core.digest(), instruction: bytes };
          this.#inFlight.push(planned);
          this.#onPlanned(planned);
        }
      }
    });
  }

  /** Bytes of an Output, valid until the next call. */
  apply(event: CommandEvent): Uint8Array {
    return guarded(() => this.core.apply(event.command));
  }

  /** Bytes of an Output, valid until the next call. Its step is 0 when the core refused the result. */
  commit(result: Uint8Array): Uint8Array {
    const output = guarded(() => this.core.commit(result));
    this.#inFlight.shift();
    return output;
  }
}

function guarded<T>(call: () => T): T {
  try {
    return call();
  } catch (cause) {
    if (cause instanceof CoreStopped) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    // A broken invariant says itself that the core stopped; a trap ("unreachable") does not.
    const isSentence = cause instanceof KadenzError || reason.startsWith('the core');
    throw new CoreStopped(isSentence ? reason : `the core stopped: ${reason}`, { cause });
  }
}
