// What the main thread and a rank's worker say to each other.
//
// The worker's event loop never turns while a rank runs: it reads its MessagePort synchronously and sleeps on shared memory.
// So every message to the worker is followed by one more in SIGNAL_MESSAGES and a notify. Messages from the worker arrive on the
// main thread as ordinary port events, in the order in which they were sent; the last one is 'ended' or 'failed'.
// All bytes are FlatBuffers of schemas/, each in a buffer of its own that changes hands with the message.

import type { MessagePort } from 'node:worker_threads';
import type { CoreConfig, ResolvedCoreConfig } from '../core/index.js';
import type { KadenzErrorCode, KadenzErrorDetails } from '../errors.js';
import type { HostInfo } from '../host/host.js';
import type { StartProgress } from '../host/start_progress.js';
import type { TraceHeader } from '../trace/index.js';

/** Words of the shared Int32Array: how many messages were posted so far, and whether the loop is to end. */
export const SIGNAL_MESSAGES = 0;
export const SIGNAL_STOP = 1;
export const SIGNAL_WORDS = 2;

export type MessageToWorker = { kind: 'command'; command: Uint8Array } | { kind: 'stats'; id: number };

export type MessageFromWorker =
  /** How far the host's start is; comes before 'ready'. */
  | ({ kind: 'progress' } & StartProgress)
  /** The configuration is the core's own, complete: what `coreConfig` of the task left to the host is in it. */
  | { kind: 'ready'; info: HostInfo; coreConfig: ResolvedCoreConfig }
  /** An Output, and the Result that it refers to: null when it answers a command. */
  | { kind: 'output'; output: Uint8Array; result: Uint8Array | null }
  | { kind: 'stats'; id: number; stats: Uint8Array }
  /** The next payload of the run's trace. */
  | { kind: 'trace'; payload: Uint8Array }
  | { kind: 'failed'; code: KadenzErrorCode; message: string; details: KadenzErrorDetails; stack: string }
  /** With the host's info as it was at the end. */
  | { kind: 'ended'; info: HostInfo };

/** What a worker needs to start. Everything in it survives a structured clone. */
export interface RankTask {
  port: MessagePort;
  signal: Int32Array;
  /** numBlocks 0: as many as the host says that it has. */
  coreConfig: CoreConfig;
  /** With numBlocks 0: maxModelLen is lowered to what the host's blocks hold; else it stays as it was asked for. */
  fitModelLen: boolean;
  /** URL of a module that exports `openHost(options, progress): Host | Promise<Host>`. */
  hostModule: string;
  hostOptions: unknown;
  /** null: nobody records this run. */
  recording: RecordingTask | null;
}

/** What the worker writes into its trace beside what it knows itself. */
export interface RecordingTask {
  header: Pick<TraceHeader, 'kadenzVersion' | 'model' | 'modelFingerprint' | 'createdUnixMs'>;
  plans: boolean;
}
