// The step loop: turns the crank of one rank until it is told to stop. It knows the core and the Host interface only.
//
//   commands → core.apply          core.schedule → host.submit          host.collect → core.commit → publish
//
// A step is planned and submitted while the one before still runs on the device, as far as the core allows (its
// max_steps_in_flight). With nothing in flight and nothing to plan the loop sleeps until a message comes. Requests that wait while
// nothing runs and nothing holds them back are a broken invariant: an error at once, never a hang.

import * as flatbuffers from 'flatbuffers';
import type { WasmCore } from '../core/index.js';
import { KadenzError } from '../errors.js';
import { Stats } from '../generated/index.js';
import type { Host } from '../host/host.js';
import type { MessageToWorker } from './protocol.js';

export interface StepLoopParts {
  core: Pick<WasmCore, 'apply' | 'schedule' | 'commit' | 'stats'>;
  host: Pick<Host, 'submit' | 'collect'>;
  inbox: Inbox;
  outbox: Outbox;
}

/** Where commands come from. `next` never waits; `sleep` returns when there may be a message, or when the loop is to stop. */
export interface Inbox {
  readonly stopped: boolean;
  next(): MessageToWorker | null;
  sleep(): void;
}

/** Where outputs go. The bytes are views that the next step overwrites: the outbox copies what it keeps. */
export interface Outbox {
  output(output: Uint8Array, result: Uint8Array | null): void;
  stats(id: number, stats: Uint8Array): void;
}

export function runStepLoop({ core, host, inbox, outbox }: StepLoopParts): void {
  let stepsInFlight = 0;
  while (!inbox.stopped) {
    for (let message = inbox.next(); message !== null; message = inbox.next()) {
      if (message.kind === 'command') outbox.output(core.apply(message.command), null);
      else outbox.stats(message.id, core.stats());
    }
    for (let instruction = core.schedule(); instruction !== null; instruction = core.schedule()) {
      host.submit(instruction);
      stepsInFlight += 1;
    }
    if (stepsInFlight > 0) {
      const result = host.collect();
      stepsInFlight -= 1;
      outbox.output(core.commit(result), result);
    } else {
      requireNothingStuck(core.stats());
      inbox.sleep();
    }
  }
}

function requireNothingStuck(statsBytes: Uint8Array): void {
  const stats = Stats.getRootAsStats(new flatbuffers.ByteBuffer(statsBytes));
  const heldBack =
    stats.paused() || stats.updatingWeights() || !stats.weightsUsable() || Number(stats.released()) !== 0;
  if (stats.numRequests() === 0 || heldBack) return;
  throw new KadenzError(
    'no_progress',
    `The scheduler is stuck: ${stats.numRequests()} requests are held (${stats.numRunning()} sequences running, ` +
      `${stats.numWaiting()} waiting, ${stats.numFreeBlocks()} of ${stats.numBlocks()} KV blocks free), ` +
      'yet nothing is in flight and no step can be planned. This is a fault of Kadenz itself.',
  );
}
