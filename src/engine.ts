// Engine: the public face. Requests in, samples out; one rank behind it, in a worker thread of its own.
//
//   const engine = await Engine.create({ model: 'models/arithmetic' });
//   const [result] = await engine.generate([{ prompt: 'What is 3 + 4?', n: 8, maxTokens: 24 }]);
//   await engine.close();
//
// What holds: a sample depends on its request alone (weights, prompt, sampling parameters, seed), not on what runs beside it. A bad
// request fails alone. An aborted request ends with what it has so far and finishReason 'abort'; it is no error. If the worker dies,
// every request that has not ended fails with code worker_died, and so does whatever is asked afterwards.

import { type CommandBody, decodeStats, type StatsObject } from './core/index.js';
import { AbortSignals } from './engine/abort_signals.js';
import { RequestCollector } from './engine/collector.js';
import { EngineMemory } from './engine/memory.js';
import type { EngineOptions } from './engine/options.js';
import { checkRequestForm, type PreparedRequest, prepareRequest } from './engine/request.js';
import { type EngineInfo, type EngineParts, startEngine } from './engine/start.js';
import { SampleStream } from './engine/stream.js';
import type {
  GenerateRequest,
  GenerateResult,
  LogprobsMode,
  PauseMode,
  RequestId,
  StreamDelta,
} from './engine/types.js';
import { KadenzError } from './errors.js';
import { graceFor } from './rank/grace.js';
import { Tokenizer } from './tokenizer/index.js';

export type { EngineInfo };

export interface CallOptions {
  /** Ends the call's requests with finishReason 'abort'. */
  signal?: AbortSignal;
}

export interface ScoreOptions extends CallOptions {
  logprobsMode?: LogprobsMode;
  adapter?: number;
  priority?: number;
}

export interface EngineStats extends StatsObject {
  /** Requests that wait in the engine because the scheduler holds maxNumRequests. */
  numQueued: number;
}

/** Text is turned into tokens for so many requests before other events get their turn. */
const ENCODES_PER_TURN = 8;

/** How long the core may take to acknowledge its shutdown: a step or two. */
const SHUT_DOWN_GRACE_MS = 10_000;

export class Engine {
  readonly info: EngineInfo;
  /** Gives the KV cache's and the weights' memory back between rollouts, and takes it again. */
  readonly memory: EngineMemory;
  readonly #parts: EngineParts;
  /** Requests that have not ended, by the id that their caller gave. */
  readonly #byId = new Map<RequestId, Set<RequestCollector>>();
  readonly #signals: AbortSignals;
  #nextOrdinal = 0;
  #tokenizer: Promise<Tokenizer> | null = null;
  #closing: Promise<void> | null = null;

  /**
   * Loads a model and starts its worker. Throws a KadenzError: model_not_found, unsupported_config, cuda_unavailable, ...
   * @internal @param hostModule what the worker opens as its host; a URL of a module with `openHost`, for tests and simulations
   */
  static async create(options: EngineOptions, hostModule?: string): Promise<Engine> {
    const nativeHost = new URL('./host/native_host.js', import.meta.url).href;
    return new Engine(await startEngine(options, hostModule ?? nativeHost));
  }

  private constructor(parts: EngineParts) {
    this.#parts = parts;
    this.info = parts.info;
    this.#signals = new AbortSignals((collectors) => parts.dispatcher.abort(collectors));
    this.memory = new EngineMemory(
      (command) => this.#control(command),
      async () => (await this.stats()).released,
    );
  }

  /** Whether the model directory brings a tokenizer. Without one, prompts are token ids and samples have no text. */
  get hasTokenizer(): boolean {
    return Tokenizer.isIn(this.info.model);
  }

  /**
   * Generates samples. A list gives results in its order, and a request that fails has `error` set: the others go on. A single request
   * gives its result, or throws its error.
   */
  generate(request: GenerateRequest, options?: CallOptions): Promise<GenerateResult>;
  generate(requests: readonly GenerateRequest[], options?: CallOptions): Promise<GenerateResult[]>;
  async generate(
    requests: GenerateRequest | readonly GenerateRequest[],
    options: CallOptions = {},
  ): Promise<GenerateResult | GenerateResult[]> {
    this.#requireOpen();
    if (Array.isArray(requests)) return this.#generateAll(requests, options);
    const [result] = await this.#generateAll([requests as GenerateRequest], options);
    if (result!.error !== undefined) throw result!.error;
    return result!;
  }

  /**
   * One request as an async iterator of deltas: new tokens of one sample at a time, merged while the reader is busy. It starts with the
   * first `next`, which throws if the request is refused. Leaving the loop aborts it.
   */
  stream(request: GenerateRequest, { signal }: CallOptions = {}): AsyncGenerator<StreamDelta, void> {
    this.#requireOpen();
    return this.#stream(request, this.#takeOrdinals(1), signal);
  }

  async *#stream(
    request: GenerateRequest,
    ordinal: number,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<StreamDelta, void> {
    const collector = this.#admit(await this.#prepare(request, ordinal));
    const abort = () => this.#parts.dispatcher.abort([collector]);
    const stream = new SampleStream(collector, abort);
    this.#start(collector, signal);
    yield* stream;
  }

  /**
   * Log-probs of given tokens: of each one given those before it; the first is NaN. One sequence gives one array, a list of sequences
   * one each. A bad sequence rejects; score sequences one by one to keep the others.
   */
  score(tokenIds: readonly number[] | Int32Array, options?: ScoreOptions): Promise<Float32Array>;
  score(sequences: readonly ArrayLike<number>[], options?: ScoreOptions): Promise<Float32Array[]>;
  async score(
    input: readonly number[] | Int32Array | readonly ArrayLike<number>[],
    { signal, ...fields }: ScoreOptions = {},
  ): Promise<Float32Array | Float32Array[]> {
    const isOne = input instanceof Int32Array || typeof input[0] === 'number';
    const sequences = (isOne ? [input] : input) as readonly ArrayLike<number>[];
    const requests = sequences.map((promptTokenIds): GenerateRequest => {
      return { promptTokenIds, maxTokens: 0, logprobs: null, promptLogprobs: 0, temperature: 1, ...fields };
    });
    const results = await this.generate(requests, signal === undefined ? {} : { signal });
    const scores = results.map(({ error, samples, promptLogprobs }) => {
      if (error !== undefined) throw error;
      if (samples.some((sample) => sample.finishReason === 'abort')) signal?.throwIfAborted();
      return promptLogprobs!;
    });
    return isOne ? scores[0]! : scores;
  }

  /** Ends requests with finishReason 'abort', by the ids that their callers gave. Ids that are not known are passed over. */
  abort(ids: RequestId | readonly RequestId[] | 'all'): void {
    const wanted = ids === 'all' ? [...this.#byId.keys()] : Array.isArray(ids) ? ids : [ids as RequestId];
    this.#parts.dispatcher.abort(wanted.flatMap((id) => [...(this.#byId.get(id) ?? [])]));
  }

  /**
   * Stops generating; resolves when no step is in flight. abort: everything ends. wait: what runs or waits is finished first. keep:
   * frozen where it stands. retract: frozen, and the KV cache is freed. Requests that come meanwhile queue.
   */
  pause(mode: PauseMode = 'abort'): Promise<void> {
    return this.#control({ type: 'pauseGeneration', mode });
  }

  /** Goes on after pause(). Memory that was released comes back by memory.resume(). */
  resume(): Promise<void> {
    return this.#control({ type: 'resumeGeneration' });
  }

  /** Forgets all cached prefixes. Refused while sequences hold KV blocks, unless forced: then they start over. */
  resetPrefixCache({ force = false }: { force?: boolean } = {}): Promise<void> {
    return this.#control({ type: 'resetPrefixCache', force });
  }

  async stats(): Promise<EngineStats> {
    this.#requireOpen();
    const { rank, dispatcher } = this.#parts;
    return { ...decodeStats(await rank.stats()), numQueued: dispatcher.numQueued };
  }

  /** Token ids of a text, as `prompt` would be encoded. */
  async encode(text: string): Promise<Int32Array> {
    return (await this.#loadTokenizer()).encode(text);
  }

  /** The text of token ids, without special tokens. */
  async decode(tokenIds: ArrayLike<number>): Promise<string> {
    return (await this.#loadTokenizer()).decode(tokenIds);
  }

  /**
   * Ends the worker. Requests that have not ended fail with engine_closed. May be called again. Resolves, unless the run was to be
   * recorded and its trace is not whole: record_failed.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    const { dispatcher, rank, trace, logger } = this.#parts;
    const error = new KadenzError('engine_closed', 'The engine was closed before the request ended.');
    await graceFor(dispatcher.shutDown(error), SHUT_DOWN_GRACE_MS);
    await rank.stop();
    await trace?.close();
    logger?.info(`${this.info.model} is closed`);
  }

  async #control(command: CommandBody): Promise<void> {
    this.#requireOpen();
    await this.#parts.dispatcher.control(command);
    // Requests that ended before the command was carried out have their results by the time that its caller goes on.
    await nextTurn();
  }

  async #generateAll(
    requests: readonly GenerateRequest[],
    { signal }: CallOptions,
  ): Promise<GenerateResult[]> {
    const firstOrdinal = this.#takeOrdinals(requests.length);
    const results: Promise<GenerateResult>[] = [];
    for (const [index, request] of requests.entries()) {
      const ordinal = firstOrdinal + index;
      try {
        const needsText = request?.promptTokenIds === undefined;
        if (needsText && index > 0 && index % ENCODES_PER_TURN === 0) await nextTurn();
        // Awaiting only where a tokenizer is needed keeps requests of token ids in the order of the calls.
        const prepared = needsText
          ? await this.#prepare(request, ordinal)
          : this.#prepareTokens(request, ordinal);
        const collector = this.#admit(prepared);
        this.#start(collector, signal);
        results.push(collector.done.then((result) => this.#withText(result, prepared)));
      } catch (error) {
        if (!(error instanceof KadenzError)) throw error;
        results.push(Promise.resolve(refusedResult(request, ordinal, error)));
      }
    }
    return Promise.all(results);
  }

  #prepareTokens(request: GenerateRequest, ordinal: number, encodedPrompt?: Int32Array): PreparedRequest {
    checkRequestForm(request);
    const { info, seed, maxN } = this.#parts;
    const context = { ordinal, engineSeed: seed, maxModelLen: info.maxModelLen, maxN };
    return prepareRequest(request, encodedPrompt === undefined ? context : { ...context, encodedPrompt });
  }

  async #prepare(request: GenerateRequest, ordinal: number): Promise<PreparedRequest> {
    checkRequestForm(request);
    const { prompt, messages } = request;
    if (prompt === undefined && messages === undefined) return this.#prepareTokens(request, ordinal);
    const tokenizer = await this.#loadTokenizer();
    if (prompt !== undefined && typeof prompt !== 'string') {
      throw new KadenzError(
        'invalid_argument',
        `A prompt must be a string, not a value of type ${typeof prompt}.`,
      );
    }
    const encoded = prompt !== undefined ? tokenizer.encode(prompt) : tokenizer.encodeChat(messages!);
    return this.#prepareTokens(request, ordinal, encoded);
  }

  #admit(prepared: PreparedRequest): RequestCollector {
    const collector = new RequestCollector(prepared);
    const siblings = this.#byId.get(prepared.id) ?? new Set();
    this.#byId.set(prepared.id, siblings.add(collector));
    collector.done.then(() => {
      siblings.delete(collector);
      if (siblings.size === 0 && this.#byId.get(prepared.id) === siblings) this.#byId.delete(prepared.id);
    });
    return collector;
  }

  #start(collector: RequestCollector, signal: AbortSignal | undefined): void {
    this.#parts.dispatcher.submit(collector);
    if (signal !== undefined) this.#signals.follow(signal, collector);
  }

  async #withText(result: GenerateResult, { detokenize }: PreparedRequest): Promise<GenerateResult> {
    if (!detokenize || result.samples.length === 0) return result;
    const tokenizer = await this.#loadTokenizer();
    for (const sample of result.samples) sample.text = tokenizer.decode(sample.tokenIds);
    return result;
  }

  #loadTokenizer(): Promise<Tokenizer> {
    this.#tokenizer ??= Tokenizer.load(this.info.model);
    return this.#tokenizer;
  }

  #takeOrdinals(count: number): number {
    const first = this.#nextOrdinal;
    this.#nextOrdinal += count;
    return first;
  }

  #requireOpen(): void {
    if (this.#closing !== null)
      throw new KadenzError('engine_closed', 'The engine is closed; create a new one.');
    const { over } = this.#parts.dispatcher;
    if (over !== null) throw over;
  }
}

function refusedResult(request: GenerateRequest, ordinal: number, error: KadenzError): GenerateResult {
  const id = request?.id;
  const echo = typeof id === 'string' || typeof id === 'number' ? id : ordinal;
  return { id: echo, promptTokenIds: new Int32Array(0), samples: [], cachedTokens: 0, error };
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve);
  });
}
