// The main thread's side of one rank: a Piscina pool of one thread with one task that returns only when the rank ends.
//
// Lifecycle: `Rank.start` resolves when the worker has opened its host and core. From then on commands go out with `send` and outputs
// come back through the listener, in order. A rank ends exactly once, and says so with `onEnd`: with null after `stop`, else with
// the error that ended it (a throw, a trap, the thread's death). A worker that died has lost its core: there is no restart.

import { fileURLToPath } from 'node:url';
import { MessageChannel, type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { Piscina } from 'piscina';
import type { CoreConfig, ResolvedCoreConfig } from '../core/index.js';
import { KadenzError } from '../errors.js';
import type { HostInfo } from '../host/host.js';
import type { StartProgress } from '../host/start_progress.js';
import { graceFor } from './grace.js';
import {
  type MessageFromWorker,
  type MessageToWorker,
  type RankTask,
  type RecordingTask,
  SIGNAL_MESSAGES,
  SIGNAL_STOP,
  SIGNAL_WORDS,
} from './protocol.js';

const STOP_GRACE_MS_DEFAULT = 10_000;

export interface RankOptions {
  /** numBlocks 0: as many as the host says that it has. */
  coreConfig: CoreConfig;
  /** With numBlocks 0: lower maxModelLen to what the host's blocks hold. Default false. */
  fitModelLen?: boolean;
  /** URL of a module that exports `openHost(options, progress)`; `hostOptions` is structured-cloned to it. */
  hostModule: string;
  hostOptions: unknown;
  /** Record the run: its trace's payloads come through `onTrace`. */
  recording?: RecordingTask | null;
  listener: RankListener;
  /** How long a rank that was told to stop may take before its thread is ended by force. Default 10 s. */
  stopGraceMs?: number;
}

export interface RankListener {
  /** While the host starts. */
  onProgress?(progress: StartProgress): void;
  onOutput(output: Uint8Array, result: Uint8Array | null): void;
  onTrace?(payload: Uint8Array): void;
  onEnd(error: KadenzError | null): void;
}

export class Rank {
  readonly #listener: RankListener;
  readonly #stopGraceMs: number;
  readonly #signal = new Int32Array(new SharedArrayBuffer(SIGNAL_WORDS * Int32Array.BYTES_PER_ELEMENT));
  readonly #pool = new Piscina({
    minThreads: 0,
    maxThreads: 1,
    maxQueue: 0,
    concurrentTasksPerWorker: 1,
    atomics: 'disabled',
    recordTiming: false,
  });
  readonly #port: MessagePort;
  readonly #task: Promise<void>;
  readonly #ready: Promise<void>;
  #resolveReady: () => void = () => {};
  #rejectReady: (error: KadenzError) => void = () => {};
  readonly #statsWaiting = new Map<
    number,
    { resolve(stats: Uint8Array): void; reject(error: Error): void }
  >();
  #nextStatsId = 1;
  #opened: { info: HostInfo; coreConfig: ResolvedCoreConfig } | null = null;
  #stopping = false;
  #sawEnd = false;
  #failure: KadenzError | null = null;
  #ended: KadenzError | null | undefined;

  static async start(options: RankOptions): Promise<Rank> {
    const rank = new Rank(options);
    await rank.#ready;
    return rank;
  }

  private constructor(options: RankOptions) {
    this.#listener = options.listener;
    this.#stopGraceMs = options.stopGraceMs ?? STOP_GRACE_MS_DEFAULT;
    this.#ready = new Promise((resolve, reject) => {
      this.#resolveReady = resolve;
      this.#rejectReady = reject;
    });
    this.#ready.catch(() => {});
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    port1.on('message', (message: MessageFromWorker) => this.#receive(message));
    const task: RankTask = {
      port: port2,
      signal: this.#signal,
      coreConfig: options.coreConfig,
      fitModelLen: options.fitModelLen ?? false,
      hostModule: options.hostModule,
      hostOptions: options.hostOptions,
      recording: options.recording ?? null,
    };
    this.#pool.on('error', (error: unknown) => this.#fail(error));
    const run: Promise<unknown> = this.#pool.run(task, {
      filename: fileURLToPath(new URL('./worker.js', import.meta.url)),
      transferList: [port2],
    });
    this.#task = run.then(
      () => this.#settle(),
      (error: unknown) => {
        this.#fail(error);
        return this.#settle();
      },
    );
  }

  /** What the host says about itself. */
  get info(): HostInfo {
    return this.#requireOpened().info;
  }

  /** What the core was configured with, complete. */
  get coreConfig(): ResolvedCoreConfig {
    return this.#requireOpened().coreConfig;
  }

  /** Sends one Command. The bytes change hands: the caller's view is detached. */
  send(command: Uint8Array): void {
    const owned = command.byteLength === command.buffer.byteLength ? command : command.slice();
    this.#post({ kind: 'command', command: owned }, [owned.buffer as ArrayBuffer]);
  }

  /** The core's Stats, read between two steps. */
  stats(): Promise<Uint8Array> {
    if (this.#ended !== undefined) return Promise.reject(this.#ended ?? stoppedError());
    const id = this.#nextStatsId;
    this.#nextStatsId += 1;
    return new Promise((resolve, reject) => {
      this.#statsWaiting.set(id, { resolve, reject });
      this.#post({ kind: 'stats', id }, []);
    });
  }

  /** Ends the loop after the step at hand, closes the host and the thread. Always resolves; a second call waits for the first. */
  async stop(): Promise<void> {
    this.#stopping = true;
    Atomics.store(this.#signal, SIGNAL_STOP, 1);
    this.#wake();
    await graceFor(this.#task, this.#stopGraceMs);
    await this.#pool.destroy();
    await this.#task;
  }

  #requireOpened(): { info: HostInfo; coreConfig: ResolvedCoreConfig } {
    if (this.#opened === null) throw new Error('a rank has no info before it is ready');
    return this.#opened;
  }

  #post(message: MessageToWorker, transfer: ArrayBuffer[]): void {
    if (this.#ended !== undefined) return;
    this.#port.postMessage(message, transfer);
    this.#wake();
  }

  #wake(): void {
    Atomics.add(this.#signal, SIGNAL_MESSAGES, 1);
    Atomics.notify(this.#signal, SIGNAL_MESSAGES);
  }

  #receive(message: MessageFromWorker): void {
    if (message.kind === 'output') {
      this.#listener.onOutput(message.output, message.result);
    } else if (message.kind === 'trace') {
      this.#listener.onTrace?.(message.payload);
    } else if (message.kind === 'stats') {
      this.#statsWaiting.get(message.id)?.resolve(message.stats);
      this.#statsWaiting.delete(message.id);
    } else if (message.kind === 'ready') {
      this.#opened = message;
      this.#resolveReady();
    } else if (message.kind === 'progress') {
      const { stage, done, total } = message;
      this.#listener.onProgress?.({ stage, done, total });
    } else if (message.kind === 'ended') {
      this.#sawEnd = true;
      Object.assign(this.#requireOpened().info, message.info);
    } else {
      const error = new KadenzError(message.code, message.message, message.details);
      error.stack = message.stack;
      this.#failure ??= error;
    }
  }

  #fail(error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    this.#failure ??= new KadenzError('worker_died', reason);
  }

  /** The task is over: takes in what the worker still had said, then tells everybody who waits. */
  async #settle(): Promise<void> {
    for (let last = receiveMessageOnPort(this.#port); last; last = receiveMessageOnPort(this.#port)) {
      this.#receive(last.message as MessageFromWorker);
    }
    this.#port.close();
    if (!this.#sawEnd && this.#failure === null && !this.#stopping) this.#fail('it ended without a word');
    const ready = this.#opened !== null;
    this.#ended = this.#stopping ? null : this.#asEnd(ready);
    for (const waiting of this.#statsWaiting.values()) waiting.reject(this.#ended ?? stoppedError());
    this.#statsWaiting.clear();
    this.#rejectReady(this.#ended ?? stoppedError());
    if (ready) this.#listener.onEnd(this.#ended);
    else await this.#pool.destroy();
  }

  /** Before it is ready a rank fails with the cause itself (a missing tensor, say); later its death is what the requests are told. */
  #asEnd(ready: boolean): KadenzError {
    const cause = this.#failure ?? new KadenzError('worker_died', 'it ended without a word');
    if (!ready && cause.code !== 'worker_died') return cause;
    const sentence = `The engine's worker died (${cause.message}). Its requests are lost; close this engine and create a new one.`;
    return new KadenzError('worker_died', sentence, { cause });
  }
}

function stoppedError(): KadenzError {
  return new KadenzError('engine_closed', 'The engine is closed.');
}
