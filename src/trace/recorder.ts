// Records one run: everything that enters a core, in order, with the digests of what it planned.
//
// The recorder gathers commits in columns and hands a payload (a TraceFrame) to its sink when a command comes, when 64 KiB are together,
// after 100 ms, and when the run falls idle. It copies what it keeps and never waits. The caller reports every call on the core, in
// order; RecordingCore does that for any loop.
//
// Order is told by rounds: a round ends with a call of schedule that gave nothing. A replay that makes the same rounds before each command and
// each commit makes the same calls.

import * as flatbuffers from 'flatbuffers';
import { encodeConfigure, type WasmCore } from '../core/index.js';
import * as wire from '../generated/index.js';
import { TRACE_VERSION } from './frame.js';
import { commandPayload, endPayload, headerPayload, type TraceHeader } from './payload.js';
import { StepColumns } from './step_columns.js';

const FLUSH_BYTES = 64 * 1024;
const FLUSH_US = 100_000;
/** What a step's times hold beside the frame's base: over an hour. A step that was planned longer ago is said to be that old. */
const MAX_OFFSET_US = 0xffff_ffff;
/** What a step's field holds. Rounds that change nothing are the only ones that can be so many. */
const MAX_ROUNDS = 0xffff;

export interface RecorderOptions {
  /** Everything of the header that the core does not know itself. */
  header: Omit<TraceHeader, 'configure' | 'coreSha256' | 'hasPlans'>;
  /** Microseconds since the recording began; never goes back. */
  clock: () => number;
  /** Also keep each instruction's bytes (about 25 bytes more a token): a difference can then be told by its field. Default false. */
  plans?: boolean;
}

interface StepInFlight {
  digest: bigint;
  plannedUs: number;
  plan: Uint8Array | null;
}

export class TraceRecorder {
  readonly #sink: (payload: Uint8Array) => void;
  readonly #clock: () => number;
  readonly #plans: boolean;
  readonly #columns: StepColumns;
  readonly #inFlight: StepInFlight[] = [];
  #numCommitted = 0n;
  #rounds = 0;
  #isOver = false;

  constructor(
    sink: (payload: Uint8Array) => void,
    core: Pick<WasmCore, 'config' | 'sha256'>,
    { header, clock, plans = false }: RecorderOptions,
  ) {
    this.#sink = sink;
    this.#clock = clock;
    this.#plans = plans;
    this.#columns = new StepColumns(plans);
    sink(
      headerPayload(TRACE_VERSION, {
        ...header,
        coreSha256: core.sha256,
        configure: encodeConfigure(0, core.config),
        hasPlans: plans,
      }),
    );
  }

  /** A command that is about to be applied. */
  command(command: Uint8Array): void {
    this.flush();
    const entry = {
      afterStep: this.#numCommitted,
      timeUs: this.#clock(),
      rounds: this.#takeRounds(),
      command,
    };
    this.#sink(commandPayload(entry));
  }

  /** An instruction that schedule gave, and the digest up to it. */
  planned(instruction: Uint8Array, digest: bigint): void {
    const plan = this.#plans ? instruction.slice() : null;
    this.#inFlight.push({ digest, plannedUs: this.#clock(), plan });
  }

  /** Schedule gave nothing. */
  idle(): void {
    if (this.#rounds < MAX_ROUNDS) this.#rounds += 1;
    if (this.#inFlight.length === 0) this.flush();
  }

  /** The result of the oldest instruction in flight, about to be committed. One that does not belong to it is not recorded. */
  committed(result: Uint8Array): void {
    const step = this.#inFlight.shift();
    if (step === undefined) return;
    const timeUs = this.#clock();
    if (timeUs - this.#columns.baseUs > MAX_OFFSET_US) this.flush();
    if (this.#columns.count === 0)
      this.#columns.begin(this.#numCommitted + 1n, Math.max(step.plannedUs, timeUs - MAX_OFFSET_US));
    this.#columns.add({ ...step, committedUs: timeUs, rounds: this.#takeRounds(), result });
    this.#numCommitted += 1n;
    const isOld = timeUs - this.#columns.baseUs >= FLUSH_US;
    if (isOld || this.#columns.byteLength >= FLUSH_BYTES) this.flush();
  }

  /** Hands on what is gathered, for a run that ends without an end. */
  flush(): void {
    if (this.#columns.count > 0) this.#sink(this.#columns.take());
  }

  /** Ends the trace. `digest`: of all instructions, those never committed too. */
  end(digest: bigint): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.flush();
    this.#sink(endPayload({ timeUs: this.#clock(), numSteps: this.#numCommitted, digest }));
  }

  #takeRounds(): number {
    const rounds = this.#rounds;
    this.#rounds = 0;
    return rounds;
  }
}

/** A core that tells a recorder of every call. */
export class RecordingCore implements Pick<WasmCore, 'apply' | 'schedule' | 'commit' | 'stats' | 'digest'> {
  readonly #core: WasmCore;
  readonly #recorder: TraceRecorder;

  constructor(core: WasmCore, recorder: TraceRecorder) {
    this.#core = core;
    this.#recorder = recorder;
  }

  apply(command: Uint8Array): Uint8Array {
    this.#recorder.command(command);
    return this.#core.apply(command);
  }

  schedule(): Uint8Array | null {
    const instruction = this.#core.schedule();
    if (instruction === null) this.#recorder.idle();
    else this.#recorder.planned(instruction, this.#core.digest());
    return instruction;
  }

  commit(result: Uint8Array): Uint8Array {
    let output: Uint8Array;
    try {
      output = this.#core.commit(result);
    } catch (error) {
      this.#recorder.committed(result); // what broke the core belongs into its trace
      throw error;
    }
    if (!isRefused(output)) this.#recorder.committed(result);
    return output;
  }

  stats(): Uint8Array {
    return this.#core.stats();
  }

  digest(): bigint {
    return this.#core.digest();
  }
}

/** A result that does not belong to the oldest instruction in flight changes nothing, and its Output names no step. */
function isRefused(output: Uint8Array): boolean {
  return wire.Output.getRootAsOutput(new flatbuffers.ByteBuffer(output)).step() === 0n;
}
