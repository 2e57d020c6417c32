// Stands between the engine's callers and its rank: hands requests to the core as it has places for them, sends control commands, and
// deals out what comes back. Every request ends exactly once, whatever happens to the rank.
//
// A request is queued here (in priority order) until the core holds fewer than maxNumRequests, then outstanding until all its samples
// have ended. Its id on the wire is its ordinal + 1. Commands go out in the order of the calls that made them.

import { type CommandBody, encodeCommand, type MemoryTag } from '../core/index.js';
import { errorFromWire, KadenzError, wireErrorName } from '../errors.js';
import type { RankListener } from '../rank/rank.js';
import type { RequestCollector } from './collector.js';
import {
  type Ack,
  type Finish,
  type OutputSink,
  type ResultColumns,
  readOutput,
  readResult,
} from './output_reader.js';
import { WaitingQueue } from './waiting_queue.js';

/** One AddRequests command carries at most so much, so that it fits the core's in-box. */
const COMMAND_REQUESTS_MAX = 256;
const COMMAND_ENTRIES_MAX = 65_536;

/** Refusals that only say "not now": the request waits until another one has ended. */
const NO_ROOM: ReadonlySet<string | undefined> = new Set(['queue_full', 'out_of_token_memory']);

interface Waiter {
  resolve(): void;
  reject(error: KadenzError): void;
}

/** A pause of mode wait that has to let the queue drain into the core first. Whatever is asked later stays behind it. */
interface PendingPause {
  command: CommandBody;
  waiter: Waiter;
  later: RequestCollector[];
  sent: Promise<void>;
  markSent(): void;
}

export class Dispatcher implements RankListener, OutputSink {
  readonly #maxNumRequests: number;
  #send: ((command: Uint8Array) => void) | null = null;
  readonly #queue = new WaitingQueue();
  #pendingPause: PendingPause | null = null;
  readonly #outstanding = new Map<number, RequestCollector>();
  readonly #controls = new Map<number, Waiter>();
  readonly #additions = new Map<number, RequestCollector[]>();
  #nextCommand = 1;
  #feedIsDue = false;
  /** The core had no room though it had places; the next end of a request changes that. */
  #noRoom = false;
  /** Memory that was released and not resumed, as far as it is acknowledged. */
  readonly #released = new Set<MemoryTag>();
  /** Requests that came before the release and had not reached the core: they go on after it. */
  #heldByRelease: RequestCollector[] = [];
  #lastBeforeRelease = -1;
  #lastOrdinal = -1;
  #columns: ResultColumns | null = null;
  #over: KadenzError | null = null;

  constructor(maxNumRequests: number) {
    this.#maxNumRequests = maxNumRequests;
  }

  /** Gives the way to the rank; nothing is sent before. */
  attach(send: (command: Uint8Array) => void): void {
    this.#send = send;
    this.#feedSoon();
  }

  /** Why nothing more can be asked; null while all is well. */
  get over(): KadenzError | null {
    return this.#over;
  }

  /** Requests that wait here because the core has no place for them. */
  get numQueued(): number {
    const held = this.#heldByRelease.filter((collector) => !collector.ended).length;
    return this.#queue.numWaiting + held + (this.#pendingPause?.later.length ?? 0);
  }

  submit(collector: RequestCollector): void {
    this.#lastOrdinal = collector.request.ordinal;
    if (this.#over !== null) collector.fail(this.#over);
    else if (this.#pendingPause !== null) this.#pendingPause.later.push(collector);
    else this.#queue.push(collector);
    this.#feedSoon();
  }

  /** Ends requests with reason abort; those that have ended are passed over. */
  abort(collectors: Iterable<RequestCollector>): void {
    const requestIds: number[] = [];
    for (const collector of collectors) {
      if (collector.ended) continue;
      const id = wireId(collector);
      if (this.#outstanding.has(id)) requestIds.push(id);
      else endAborted(collector);
    }
    if (requestIds.length > 0) this.#control({ type: 'abortRequests', requestIds }).catch(() => {});
    this.#feedSoon();
  }

  /** Sends a control command; resolves when it has been carried out, rejects with the core's refusal. */
  async control(command: CommandBody): Promise<void> {
    const abortsAll =
      (command.type === 'pauseGeneration' && command.mode === 'abort') ||
      (command.type === 'releaseMemory' && command.abortRunning === true);
    if (abortsAll) this.#abortQueued();
    while (this.#pendingPause !== null) await this.#pendingPause.sent;
    if (command.type === 'pauseGeneration' && command.mode === 'wait') return this.#pauseAfterQueue(command);
    if (command.type === 'releaseMemory' && this.#released.size === 0)
      this.#lastBeforeRelease = this.#lastOrdinal;
    await this.#control(command);
    if (command.type === 'releaseMemory') for (const tag of command.tags) this.#released.add(tag);
    if (command.type === 'resumeMemory') this.#resumed(command.tags);
  }

  /** Fails whatever has not ended, and everything asked from now on. */
  end(error: KadenzError): void {
    if (this.#over !== null) return;
    this.#over = error;
    for (const collector of this.#outstanding.values()) collector.fail(error);
    this.#outstanding.clear();
    for (let next = this.#queue.pop(); next !== null; next = this.#queue.pop()) next.fail(error);
    for (const collector of this.#heldByRelease.splice(0)) collector.fail(error);
    for (const collector of this.#pendingPause?.later ?? []) collector.fail(error);
    this.#pendingPause?.waiter.reject(error);
    this.#pendingPause?.markSent();
    this.#pendingPause = null;
    for (const waiter of this.#controls.values()) waiter.reject(error);
    this.#controls.clear();
  }

  /** The last command: resolves when the core has shut down, or the rank has ended anyhow. Requests fail with `error`. */
  async shutDown(error: KadenzError): Promise<void> {
    if (this.#over !== null) return;
    this.end(error);
    await new Promise<void>((resolve) => {
      this.#controls.set(this.#nextCommand, { resolve, reject: () => resolve() });
      this.#transmit({ type: 'shutdown' });
    });
  }

  // RankListener

  onOutput(output: Uint8Array, result: Uint8Array | null): void {
    try {
      this.#columns = result === null ? null : readResult(result);
      readOutput(output, this);
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      this.end(
        new KadenzError('worker_died', `The engine's outputs don't fit together: ${reason}.`, {
          cause: error,
        }),
      );
    }
  }

  onEnd(error: KadenzError | null): void {
    this.end(error ?? new KadenzError('engine_closed', 'The engine is closed.'));
    for (const waiter of this.#controls.values()) waiter.resolve();
    this.#controls.clear();
  }

  // OutputSink

  start(request: number, cachedTokens: number): void {
    const collector = this.#collectorOf(request);
    if (collector !== null) collector.cachedTokens = cachedTokens;
  }

  token(
    event: { request: number; sample: number; tokenId: number; weightVersion: number },
    row: number,
  ): void {
    const collector = this.#collectorOf(event.request);
    collector?.token(event.sample, event.tokenId, event.weightVersion, this.#columns!.samples, row);
  }

  scores(request: number, position: number, first: number, count: number): void {
    this.#collectorOf(request)?.scores(position, this.#columns!.scores, first, count);
  }

  finish({ request, sample, count, reason, stopToken, code, value, limit, preemptions }: Finish): void {
    const collector = this.#collectorOf(request);
    if (collector === null) return;
    if (
      reason === 'error' &&
      collector.untouched &&
      NO_ROOM.has(wireErrorName(code)) &&
      this.#outstanding.size > 1
    ) {
      this.#outstanding.delete(request);
      this.#queue.push(collector);
      this.#noRoom = true;
      return;
    }
    if (
      reason === 'error' &&
      collector.untouched &&
      wireErrorName(code) === 'memory_released' &&
      collector.request.ordinal <= this.#lastBeforeRelease
    ) {
      this.#outstanding.delete(request);
      this.#heldByRelease.push(collector);
      this.#feedSoon();
      return;
    }
    const error = reason === 'error' ? errorFromWire(code, { value, limit }) : null;
    const stopReason = reason === 'stop' ? stopToken : null;
    collector.finish(sample, count, { reason, stopReason, error, numPreemptions: preemptions });
    if (!collector.ended) return;
    this.#outstanding.delete(request);
    this.#noRoom = false;
    this.#feedSoon();
  }

  ack({ command, code, value, limit }: Ack): void {
    const waiter = this.#controls.get(command);
    const added = this.#additions.get(command);
    this.#controls.delete(command);
    this.#additions.delete(command);
    if (code === 0) {
      waiter?.resolve();
      return;
    }
    const error = errorFromWire(code, { value, limit });
    waiter?.reject(error);
    for (const collector of added ?? []) {
      this.#outstanding.delete(wireId(collector));
      collector.fail(error);
    }
    if (waiter === undefined && added === undefined && this.#over === null) {
      throw new Error(`the core refused command ${command}, which nobody waits for: ${error.message}`);
    }
  }

  #collectorOf(request: number): RequestCollector | null {
    const collector = this.#outstanding.get(request);
    if (collector === undefined && this.#over === null)
      throw new Error(`an output names request ${request}, which is not outstanding`);
    return collector ?? null;
  }

  #control(command: CommandBody): Promise<void> {
    if (this.#over !== null) return Promise.reject(this.#over);
    this.#feed();
    return new Promise((resolve, reject) => {
      this.#controls.set(this.#nextCommand, { resolve, reject });
      this.#transmit(command);
    });
  }

  #transmit(command: CommandBody): void {
    const id = this.#nextCommand;
    this.#nextCommand += 1;
    this.#send!(encodeCommand(id, command));
  }

  /** Requests of one turn of the event loop travel in one command. */
  #feedSoon(): void {
    if (this.#feedIsDue) return;
    this.#feedIsDue = true;
    queueMicrotask(() => {
      this.#feedIsDue = false;
      this.#feed();
    });
  }

  #feed(): void {
    if (this.#send === null || this.#over !== null) return;
    while (!this.#noRoom && this.#outstanding.size < this.#maxNumRequests && this.#queue.peek() !== null)
      this.#feedOnce();
    if (this.#pendingPause !== null && this.#queue.peek() === null)
      this.#sendPendingPause(this.#pendingPause);
  }

  #feedOnce(): void {
    const batch: RequestCollector[] = [];
    let numEntries = 0;
    for (let next = this.#queue.peek(); next !== null; next = this.#queue.peek()) {
      const { promptTokenIds, stopTokenIds, logitBias } = next.request;
      numEntries += promptTokenIds.length + stopTokenIds.length + 2 * logitBias.size;
      const isFull = batch.length === COMMAND_REQUESTS_MAX || this.#outstanding.size === this.#maxNumRequests;
      if (isFull || (batch.length > 0 && numEntries > COMMAND_ENTRIES_MAX)) break;
      this.#queue.pop();
      batch.push(next);
      this.#outstanding.set(wireId(next), next);
    }
    this.#additions.set(this.#nextCommand, batch);
    this.#transmit({
      type: 'addRequests',
      requests: batch.map((collector) => ({ ...wireFields(collector), id: wireId(collector) })),
    });
  }

  #resumed(tags: readonly MemoryTag[]): void {
    for (const tag of tags) this.#released.delete(tag);
    if (this.#released.size > 0) return;
    for (const collector of this.#heldByRelease.splice(0)) this.#queue.push(collector);
    this.#feedSoon();
  }

  #pauseAfterQueue(command: CommandBody): Promise<void> {
    this.#feed();
    if (this.#over !== null || this.#queue.peek() === null) return this.#control(command);
    return new Promise((resolve, reject) => {
      let markSent = () => {};
      const sent = new Promise<void>((settle) => {
        markSent = settle;
      });
      this.#pendingPause = { command, waiter: { resolve, reject }, later: [], sent, markSent };
    });
  }

  #sendPendingPause({ command, waiter, later, markSent }: PendingPause): void {
    this.#pendingPause = null;
    this.#controls.set(this.#nextCommand, waiter);
    this.#transmit(command);
    for (const collector of later) this.#queue.push(collector);
    markSent();
    this.#feedSoon();
  }

  #abortQueued(): void {
    for (let next = this.#queue.pop(); next !== null; next = this.#queue.pop()) endAborted(next);
    for (const collector of this.#heldByRelease.splice(0)) endAborted(collector);
    for (const collector of this.#pendingPause?.later.splice(0) ?? []) endAborted(collector);
    this.#feed();
  }
}

function wireId(collector: RequestCollector): number {
  return collector.request.ordinal + 1;
}

/** A request's fields as the core knows them. */
function wireFields(collector: RequestCollector) {
  const { ordinal: _ordinal, id: _id, detokenize: _detokenize, ...fields } = collector.request;
  return fields;
}

function endAborted(collector: RequestCollector): void {
  const { n } = collector.request;
  collector.finish(0, n, { reason: 'abort', stopReason: null, error: null, numPreemptions: 0 });
}
