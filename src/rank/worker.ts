// The one task of a rank's worker thread: opens the host and the core, says 'ready', and turns the step loop until told to stop.
// Whatever goes wrong is told to the main thread in a message of its own, since a rejected task would lose an error's code.

import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads';
import { WasmCore } from '../core/index.js';
import { KadenzError } from '../errors.js';
import type { Host } from '../host/host.js';
import { type ReportProgress, thinProgress } from '../host/start_progress.js';
import { RecordingCore, TraceRecorder } from '../trace/index.js';
import { completeCoreConfig } from './core_config.js';
import {
  type MessageFromWorker,
  type MessageToWorker,
  type RankTask,
  SIGNAL_MESSAGES,
  SIGNAL_STOP,
} from './protocol.js';
import { type Inbox, type Outbox, runStepLoop } from './step_loop.js';

/** How often an idle worker looks for a message before it sleeps: some tens of microseconds, cheaper than a wake-up. */
const SPINS_BEFORE_SLEEP = 2_000;

export default async function runRank(task: RankTask): Promise<void> {
  const { port, signal } = task;
  let host: Host | null = null;
  let recorder: TraceRecorder | null = null;
  try {
    const { openHost } = (await import(task.hostModule)) as {
      openHost(options: unknown, progress: ReportProgress): Host | Promise<Host>;
    };
    const progress = thinProgress((reached) => say(port, { kind: 'progress', ...reached }));
    host = await openHost(task.hostOptions, progress);
    const core = await WasmCore.create(completeCoreConfig(task, host.info));
    recorder = startRecorder(task, core, host);
    say(port, { kind: 'ready', info: host.info, coreConfig: core.config });
    runStepLoop({
      core: recorder === null ? core : new RecordingCore(core, recorder),
      host,
      inbox: new PortInbox(port, signal),
      outbox: new PortOutbox(port),
    });
    recorder?.end(core.digest());
    const info = host.info;
    host.close();
    say(port, { kind: 'ended', info });
  } catch (error) {
    recorder?.flush();
    say(port, describeFailure(error));
    host?.close();
  } finally {
    port.close();
  }
}

/** The trace leaves through the port too: the disk is the main thread's to wait for. */
function startRecorder({ port, recording }: RankTask, core: WasmCore, host: Host): TraceRecorder | null {
  if (recording === null) return null;
  const startedMs = performance.now();
  const sink = (payload: Uint8Array) => {
    port.postMessage({ kind: 'trace', payload }, [payload.buffer as ArrayBuffer]);
  };
  return new TraceRecorder(sink, core, {
    header: { ...recording.header, hostFingerprint: host.info.fingerprint },
    clock: () => Math.floor((performance.now() - startedMs) * 1000),
    plans: recording.plans,
  });
}

class PortInbox implements Inbox {
  readonly #port: MessagePort;
  readonly #signal: Int32Array;
  #messagesSeen = 0;

  constructor(port: MessagePort, signal: Int32Array) {
    this.#port = port;
    this.#signal = signal;
  }

  get stopped(): boolean {
    return Atomics.load(this.#signal, SIGNAL_STOP) !== 0;
  }

  next(): MessageToWorker | null {
    if (Atomics.load(this.#signal, SIGNAL_MESSAGES) === this.#messagesSeen) return null;
    const received = receiveMessageOnPort(this.#port);
    if (received === undefined) return null;
    this.#messagesSeen = (this.#messagesSeen + 1) | 0;
    return received.message as MessageToWorker;
  }

  sleep(): void {
    for (let spin = 0; spin < SPINS_BEFORE_SLEEP; spin += 1) {
      if (Atomics.load(this.#signal, SIGNAL_MESSAGES) !== this.#messagesSeen) return;
    }
    if (this.stopped) return;
    // The stop word is followed by a notify on this word too, after a change of it: no wake-up can be missed.
    Atomics.wait(this.#signal, SIGNAL_MESSAGES, this.#messagesSeen);
  }
}

class PortOutbox implements Outbox {
  readonly #port: MessagePort;

  constructor(port: MessagePort) {
    this.#port = port;
  }

  output(output: Uint8Array, result: Uint8Array | null): void {
    const outputCopy = output.slice();
    const resultCopy = result === null ? null : result.slice();
    const transfer = resultCopy === null ? [outputCopy.buffer] : [outputCopy.buffer, resultCopy.buffer];
    this.#port.postMessage(
      { kind: 'output', output: outputCopy, result: resultCopy },
      transfer as ArrayBuffer[],
    );
  }

  stats(id: number, stats: Uint8Array): void {
    const copy = stats.slice();
    this.#port.postMessage({ kind: 'stats', id, stats: copy }, [copy.buffer as ArrayBuffer]);
  }
}

function say(port: MessagePort, message: MessageFromWorker): void {
  port.postMessage(message);
}

function describeFailure(error: unknown): MessageFromWorker {
  const { message, stack = '' } = error instanceof Error ? error : new Error(String(error));
  if (error instanceof KadenzError)
    return { kind: 'failed', code: error.code, message, details: error.details, stack };
  return { kind: 'failed', code: 'worker_died', message, details: {}, stack };
}
