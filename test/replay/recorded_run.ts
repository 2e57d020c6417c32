// Records small runs: the real core against a host of the tests' own that checks what it is asked to execute (core_host.ts). The seed of a
// request is its id, by which the host tells requests apart. Log-probs are made up, each sample's own.

import {
  decodeInstruction,
  decodeOutput,
  encodeCommand,
  encodeResult,
  WasmCore,
} from '../../src/core/index.js';
import { loadChecksum } from '../../src/trace/checksum.js';
import { frameBytes, preamble } from '../../src/trace/frame.js';
import { RecordingCore, TraceRecorder } from '../../src/trace/index.js';
import { CheckingHost, type HostLimits } from '../support/core_host.js';
import type {
  CommandBody,
  CoreConfig,
  InstructionObject,
  OutputObject,
  RequestObject,
  ResultObject,
} from '../support/core_types.js';

export const CONFIG = {
  maxModelLen: 256,
  numBlocks: 64,
  blockSize: 16,
  vocabSize: 1000,
  maxNumSeqs: 8,
  maxNumBatchedTokens: 256,
  maxNumRequests: 16,
  maxStepsInFlight: 2,
  maxN: 16,
  eosTokenIds: [2],
} as const satisfies CoreConfig;

export type RequestDraft = Partial<Omit<RequestObject, 'seed'>> & { id: number };

/** A prompt that no other one begins like. */
export function promptOf(length: number, salt: number): number[] {
  return Array.from({ length }, (_, i) => 10 + ((i * 31 + salt * 101) % 900));
}

/** Executes instructions as a host does, bytes in and bytes out. It believes nothing: a wrong instruction throws. */
export class OracleExecutor {
  readonly #host: CheckingHost;
  readonly #requests: ReadonlyMap<number, RequestObject>;
  readonly #submitted: InstructionObject[] = [];

  constructor(config: HostLimits, requests: ReadonlyMap<number, RequestObject>) {
    this.#requests = requests;
    this.#host = new CheckingHost(config, (seed) => {
      const { promptTokenIds, adapter = 0, cacheSalt = 0 } = requests.get(seed)!;
      return { promptTokenIds: Array.from(promptTokenIds), seed, adapter, cacheSalt: Number(cacheSalt) };
    });
  }

  get numSubmitted(): number {
    return this.#submitted.length;
  }

  submit(instruction: Uint8Array): void {
    this.#submitted.push(decodeInstruction(instruction.slice()));
  }

  collect(): Uint8Array {
    return encodeResult(this.next());
  }

  next(): ResultObject {
    const instruction = this.#submitted.shift();
    if (instruction === undefined) throw new Error('nothing was submitted');
    return this.#withLogprobs(instruction, this.#host.execute(instruction));
  }

  fail(step: number): void {
    this.#host.fail(step);
  }

  #withLogprobs(instruction: InstructionObject, result: ResultObject): ResultObject {
    if (instruction.type !== 'stepPlan') return result;
    const { samples, scores } = instruction;
    const wanted = (slot: number) => this.#requests.get(this.#host.slots[slot]!.seed)!;
    const tops = samples.map(({ slot }) => Math.max(0, wanted(slot).logprobs ?? -1));
    const scoreTops = scores.map(({ slot }) => Math.max(0, wanted(slot).promptLogprobs ?? -1));
    const tokens = Array.from(result.tokenIds ?? []);
    return {
      ...result,
      logprobs: tokens.map((token, i) => madeUp(token, i)),
      ranks: tops.map((count) => (count > 0 ? 1 : 0)),
      ...lists('top', tops),
      scoreLogprobs: scores.map(({ tokenId }, i) => madeUp(tokenId, i)),
      scoreRanks: scoreTops.map((count) => (count > 0 ? 2 : 0)),
      ...lists('scoreTop', scoreTops),
    };
  }
}

export interface RecordingOptions {
  /** Default true. */
  plans?: boolean;
  /** Default: none, as of a simulation. */
  hostFingerprint?: string;
  /** Another core than the one that was built. */
  wasm?: Uint8Array | undefined;
}

export class RecordedRun {
  readonly core: WasmCore;
  readonly payloads: Uint8Array[] = [];
  readonly outputs: OutputObject[] = [];
  readonly #config: HostLimits;
  readonly #recording: RecordingCore;
  readonly #recorder: TraceRecorder;
  readonly #requests = new Map<number, RequestObject>();
  readonly #executor: OracleExecutor;
  #numCommands = 0;

  static async create(
    config: Partial<CoreConfig> = {},
    options: RecordingOptions = {},
  ): Promise<RecordedRun> {
    const whole = { ...CONFIG, ...config };
    const { wasm } = options;
    return new RecordedRun(await WasmCore.create(whole, wasm === undefined ? {} : { wasm }), whole, options);
  }

  private constructor(
    core: WasmCore,
    config: HostLimits,
    { plans = true, hostFingerprint = '' }: RecordingOptions,
  ) {
    this.core = core;
    this.#config = config;
    this.#executor = this.executor();
    let timeUs = 0;
    const clock = () => {
      timeUs += 100;
      return timeUs;
    };
    const header = {
      kadenzVersion: '0.1.0',
      model: '',
      modelFingerprint: '',
      hostFingerprint,
      createdUnixMs: 0,
    };
    const sink = (payload: Uint8Array) => this.payloads.push(payload);
    this.#recorder = new TraceRecorder(sink, core, { header, clock, plans });
    this.#recording = new RecordingCore(core, this.#recorder);
  }

  /** A host with nothing executed yet that knows this run's requests. */
  executor(): OracleExecutor {
    return new OracleExecutor(this.#config, this.#requests);
  }

  /** Adds requests in one command, of 10 prompt tokens and 6 output tokens unless they say otherwise. */
  add(...drafts: RequestDraft[]): OutputObject {
    const requests = drafts.map((draft) => {
      const defaults = { promptTokenIds: promptOf(10, draft.id), maxTokens: 6, ignoreEos: true, logprobs: 0 };
      return { ...defaults, ...draft, seed: draft.id } as RequestObject;
    });
    for (const request of requests) this.#requests.set(Number(request.id), request);
    return this.apply({ type: 'addRequests', requests });
  }

  apply(command: CommandBody): OutputObject {
    this.#numCommands += 1;
    return this.#take(this.#recording.apply(encodeCommand(this.#numCommands, command)));
  }

  /** Calls schedule until it gives nothing. */
  schedule(): void {
    for (let bytes = this.#recording.schedule(); bytes !== null; bytes = this.#recording.schedule())
      this.#executor.submit(bytes);
  }

  /** Executes and commits the oldest instruction in flight. */
  commit(change: (result: ResultObject) => ResultObject = (result) => result): OutputObject {
    const result = change(this.#executor.next());
    if ((result.code ?? 'none') !== 'none') this.#executor.fail(result.step);
    return this.#take(this.#recording.commit(encodeResult(result)));
  }

  /** Schedules, then commits one step; so many times. */
  steps(count: number): void {
    for (let i = 0; i < count; i += 1) {
      this.schedule();
      this.commit();
    }
  }

  /** Goes on until there is nothing to do. */
  finish(): void {
    for (let i = 0; i < 10_000; i += 1) {
      this.schedule();
      if (this.#executor.numSubmitted === 0) return;
      this.commit();
    }
    throw new Error('the run does not end');
  }

  /** One request, executed by a host of the caller's. */
  record(draft: RequestDraft, execute: (instruction: Uint8Array) => Uint8Array): void {
    this.add(draft);
    const results: Uint8Array[] = [];
    for (;;) {
      for (let bytes = this.#recording.schedule(); bytes !== null; bytes = this.#recording.schedule())
        results.push(execute(bytes));
      const result = results.shift();
      if (result === undefined) return;
      this.#recording.commit(result);
    }
  }

  end(): void {
    this.#recorder.end(this.core.digest());
  }

  /** Ends it. The bytes of its file. */
  async bytes(): Promise<Buffer> {
    this.end();
    return traceBytes(this.payloads);
  }

  #take(bytes: Uint8Array): OutputObject {
    const output = decodeOutput(bytes);
    this.outputs.push(output);
    return output;
  }
}

function madeUp(token: number, index: number): number {
  return -((token * 7 + index) % 640) / 64;
}

function lists(prefix: 'top' | 'scoreTop', counts: number[]): Partial<ResultObject> {
  let end = 0;
  const ends = counts.map((count) => {
    end += count;
    return end;
  });
  const entries = Array.from({ length: end }, (_, i) => i);
  return {
    [`${prefix}Ends`]: ends,
    [`${prefix}TokenIds`]: entries.map((i) => 3 + i),
    [`${prefix}Logprobs`]: entries.map((i) => -i / 8),
  };
}

/** The bytes of the file that holds these payloads. */
export async function traceBytes(payloads: readonly Uint8Array[]): Promise<Buffer> {
  const checksum = await loadChecksum();
  return Buffer.concat([preamble(), ...payloads.map((payload) => frameBytes(payload, { checksum }))]);
}
