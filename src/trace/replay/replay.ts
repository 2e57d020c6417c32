// Replays a recorded run. The core is given what was recorded, in order, and every instruction that it makes is compared with the recorded
// one: by its digest, and byte for byte where the trace has plans. With an executor (a host) the instructions are also executed again, and
// what comes out is compared with the recorded results, bit for bit. Ends at the first difference.
//
// Throws what TraceReader.open throws, and trace_unsupported when this core refuses the recorded configuration. Everything that is found in
// the trace itself is in the report.

import { setImmediate } from 'node:timers/promises';
import {
  decodeInventory,
  decodeStats,
  type InventoryObject,
  messageBuffer,
  type StatsObject,
} from '../../core/index.js';
import { Output } from '../../generated/index.js';
import type { StepEvent } from '../read_steps.js';
import {
  type CommandEvent,
  type EndEvent,
  type TraceEvent,
  type TraceProblem,
  TraceReader,
} from '../reader.js';
import { firstDifferentResult } from './compare_results.js';
import { type Difference, differenceAt, shownDigest } from './difference.js';
import { errorName } from './error_name.js';
import { type Aspect, explained } from './explain.js';
import { locateStep } from './locate.js';
import { CoreStopped, ReplayCore } from './replay_core.js';

/** Executes instructions again, in order; a host is one. */
export interface Executor {
  submit(instruction: Uint8Array): void;
  collect(): Uint8Array;
}

export interface ReplayOptions {
  /** Stop once this step is committed, or at the end, and give the core's state. */
  until?: number | 'end' | undefined;
  executor?: Executor | undefined;
  /** Another core than the one that was built. */
  wasm?: Uint8Array | undefined;
  signal?: AbortSignal | undefined;
  /** Is told now and then how many steps have been replayed. */
  onProgress?: ((numSteps: number) => void) | undefined;
}

/** A core between two calls. */
export interface CoreState {
  /** Committed last. */
  step: number;
  stats: StatsObject;
  inventory: InventoryObject;
}

export interface ReplayReport {
  path: string;
  mode: 'plans' | 'tokens';
  /** What was compared: bytes where the trace has plans, else digests. */
  comparedPlansBy: 'bytes' | 'digest';
  /** Replayed and found equal, before the difference if there is one. */
  numSteps: number;
  numCommands: number;
  /** Delivered to clients. */
  numTokens: number;
  /** How it ended: the trace's end, where the trace is cut or damaged, or where it was told to stop. */
  ended: 'end' | 'cut' | 'corrupt' | 'until' | 'interrupted' | 'difference';
  problem: TraceProblem | null;
  difference: Difference | null;
  coreSha256: { recorded: string; replayed: string };
  state: CoreState | null;
}

/** A difference, and where to look for what it is about. */
interface Finding {
  difference: Difference;
  aspect: Aspect | null;
}

/** How often others of this thread get their turn: an interrupt, a bar. A step that is executed takes a while. */
const EVENTS_A_TURN = 256;
const EXECUTED_EVENTS_A_TURN = 1;

export async function replayTrace(path: string, options: ReplayOptions = {}): Promise<ReplayReport> {
  const reader = await TraceReader.open(path);
  try {
    const run = await ReplayRun.create(reader, options);
    return await run.go();
  } finally {
    reader.close();
  }
}

class ReplayRun {
  readonly #reader: TraceReader;
  readonly #options: ReplayOptions;
  readonly #replay: ReplayCore;
  #numSteps = 0;
  #numCommands = 0;
  #numTokens = 0;

  static async create(reader: TraceReader, options: ReplayOptions): Promise<ReplayRun> {
    const { wasm, executor } = options;
    const replay = await ReplayCore.create(reader, {
      wasm,
      ...(executor === undefined ? {} : { onPlanned: ({ instruction }) => executor.submit(instruction) }),
    });
    return new ReplayRun(reader, replay, options);
  }

  private constructor(reader: TraceReader, replay: ReplayCore, options: ReplayOptions) {
    this.#reader = reader;
    this.#replay = replay;
    this.#options = options;
  }

  async go(): Promise<ReplayReport> {
    const { until, signal, onProgress, executor } = this.#options;
    const eventsATurn = executor === undefined ? EVENTS_A_TURN : EXECUTED_EVENTS_A_TURN;
    let numEvents = 0;
    for (const event of this.#reader.events()) {
      const finding = this.#take(event);
      if (finding !== null) return this.#report('difference', await this.#explain(finding));
      if (event.kind === 'step' && event.step === until) return this.#report('until');
      numEvents += 1;
      if (numEvents % eventsATurn !== 0) continue;
      onProgress?.(this.#numSteps);
      await setImmediate();
      if (signal?.aborted === true) return this.#report('interrupted');
    }
    return this.#report(this.#reader.problem?.kind ?? 'end');
  }

  /** What differs in this event; null: nothing, and the core has taken it. */
  #take(event: TraceEvent): Finding | null {
    try {
      if (event.kind === 'end') return this.#takeEnd(event);
      this.#replay.schedule(event.rounds);
      return event.kind === 'step' ? this.#takeStep(event) : this.#takeCommand(event);
    } catch (error) {
      if (!(error instanceof CoreStopped)) throw error;
      const step = event.kind === 'step' ? event.step : this.#numSteps;
      const left = event.kind === 'step' ? 'the step was executed' : `the ${event.kind} was taken`;
      return finding(step, 'core', left, error.message);
    }
  }

  #takeCommand(event: CommandEvent): Finding | null {
    this.#replay.apply(event);
    this.#numCommands += 1;
    return null;
  }

  #takeStep(event: StepEvent): Finding | null {
    const step = this.#numSteps + 1;
    const planned = this.#replay.oldest;
    if (planned === null)
      return finding(step, 'plan', 'an instruction', 'nothing: the core had none to give');
    const plan = { kind: 'plan', recorded: event.plan } as const;
    if (event.digest !== planned.digest)
      return finding(step, 'digest', shownDigest(event.digest), shownDigest(planned.digest), plan);
    if (event.plan !== null && Buffer.compare(event.plan, planned.instruction) !== 0)
      return finding(
        step,
        'plan',
        `${event.plan.byteLength} bytes`,
        `${planned.instruction.byteLength} bytes`,
        plan,
      );
    const executed = this.#options.executor?.collect() ?? null;
    const output = Output.getRootAsOutput(messageBuffer(this.#replay.commit(event.result)));
    if (output.step() === 0n)
      return finding(step, 'result', 'was committed', `is refused: ${errorName(output.ackCode(0) ?? 0)}`);
    const numTokens = output.tokenRequestLength();
    const part = executed === null ? null : firstDifferentResult(event.result, executed);
    if (part !== null) return finding(step, part.field, part.left, part.right, { kind: 'result', part });
    this.#numSteps = step;
    this.#numTokens += numTokens;
    return null;
  }

  #takeEnd(event: EndEvent): Finding | null {
    const step = this.#numSteps;
    if (event.numSteps !== step) return finding(step, 'end.num_steps', event.numSteps, step);
    const { core } = this.#replay;
    // What was planned last may never have been committed, and then no event says so.
    if (core.digest() !== event.digest) this.#replay.schedule(1);
    const [recorded, replayed] = [event.digest, core.digest()].map(shownDigest) as [string, string];
    return recorded === replayed ? null : finding(step, 'end.digest', recorded, replayed);
  }

  async #explain({ difference, aspect }: Finding): Promise<Difference> {
    if (aspect === null) return difference;
    const { wasm, signal } = this.#options;
    return explained(difference, aspect, await locateStep(this.#reader, difference.step, { wasm, signal }));
  }

  #report(ended: ReplayReport['ended'], difference: Difference | null = null): ReplayReport {
    const { header, path, problem } = this.#reader;
    const { until, executor } = this.#options;
    const wantsState = ended === 'until' || (until === 'end' && difference === null);
    return {
      path,
      mode: executor === undefined ? 'plans' : 'tokens',
      comparedPlansBy: header.hasPlans ? 'bytes' : 'digest',
      numSteps: this.#numSteps,
      numCommands: this.#numCommands,
      numTokens: this.#numTokens,
      ended,
      problem: difference === null ? problem : null,
      difference,
      coreSha256: { recorded: header.coreSha256, replayed: this.#replay.core.sha256 },
      state: wantsState ? this.#state() : null,
    };
  }

  #state(): CoreState {
    const { core } = this.#replay;
    const inventory = decodeInventory(core.inventory());
    return { step: this.#numSteps, stats: decodeStats(core.stats()), inventory };
  }
}

function finding(
  step: number,
  field: string,
  recorded: string | number,
  replayed: string | number,
  aspect: Aspect | null = null,
): Finding {
  return {
    difference: differenceAt(step, field, { left: String(recorded), right: String(replayed) }),
    aspect,
  };
}
