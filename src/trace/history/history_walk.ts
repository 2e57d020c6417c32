// Takes a trace through the core once more and tells a visitor of every call, in order: what was planned, applied and committed. This is what
// looking at a trace rests on: the file holds what entered the core, and the core says again what it made of it.
//
// The walk ends where the trace ends, or before: where the file is cut or damaged, where this core's plans part from the recorded ones, or
// where the core stops. It never throws for these; `WalkEnd` says which it was, and all that was told before holds.

import * as flatbuffers from 'flatbuffers';
import type { ResolvedCoreConfig, WasmCore } from '../../core/index.js';
import * as wire from '../../generated/index.js';
import type { StepEvent } from '../read_steps.js';
import type { CommandEvent, TraceReader } from '../reader.js';
import { CoreStopped, configOf, ReplayCore } from '../replay/replay_core.js';

export interface TraceVisitor {
  /** A command was applied. `output`: bytes of an Output, valid during the call. */
  applied(event: CommandEvent, output: Uint8Array): void;
  /** An instruction was planned; it stays valid until its commit. */
  planned(instruction: Uint8Array): void;
  /** The oldest instruction was committed. False ends the walk: all that was asked for is known. */
  committed(event: StepEvent, output: Uint8Array): boolean;
}

/** whole: to the end of the trace. asked: the visitor had enough. The others come with a sentence. */
export interface WalkEnd {
  kind: 'whole' | 'asked' | 'cut' | 'corrupt' | 'parted' | 'core_stopped';
  sentence: string | null;
  /** The time of the last event, since the recording began. */
  timeUs: number;
}

export interface TraceWalk {
  config: ResolvedCoreConfig;
  core: WasmCore;
  run(visitor: TraceVisitor): WalkEnd;
}

/** Throws trace_corrupt or trace_unsupported when the trace's configuration can't be used. */
export async function openWalk(reader: TraceReader): Promise<TraceWalk> {
  const config = configOf(reader.path, reader.header);
  let visitor: TraceVisitor | null = null;
  const replay = await ReplayCore.create(reader, {
    onPlanned: ({ instruction }) => visitor?.planned(instruction),
  });
  const run = (visiting: TraceVisitor) => {
    visitor = visiting;
    return walk(reader, replay, visiting);
  };
  return { config, core: replay.core, run };
}

function walk(reader: TraceReader, replay: ReplayCore, visitor: TraceVisitor): WalkEnd {
  let timeUs = 0;
  const stop = (kind: WalkEnd['kind'], sentence: string | null): WalkEnd => ({ kind, sentence, timeUs });
  try {
    for (const event of reader.events()) {
      if (event.kind === 'end') {
        timeUs = Math.max(timeUs, event.timeUs);
        break;
      }
      replay.schedule(event.rounds);
      if (event.kind === 'command') {
        timeUs = Math.max(timeUs, event.timeUs);
        visitor.applied(event, replay.apply(event));
        continue;
      }
      if (replay.oldest?.digest !== event.digest)
        return stop('parted', partedAt(reader, replay.core, event.step));
      const output = replay.commit(event.result);
      if (rootOf(output).step() === 0n) {
        return stop(
          'parted',
          `The core refuses the recorded result of step ${event.step}; what follows is not shown.`,
        );
      }
      timeUs = Math.max(timeUs, event.committedUs);
      if (!visitor.committed(event, output)) return stop('asked', null);
    }
  } catch (error) {
    if (!(error instanceof CoreStopped)) throw error;
    return stop('core_stopped', `${error.message}. The trace is shown up to there.`);
  }
  const { problem } = reader;
  if (problem === null) return stop('whole', null);
  const sentence = problem.sentence.charAt(0).toUpperCase() + problem.sentence.slice(1);
  return stop(problem.kind, `${sentence} What comes before it is shown.`);
}

function rootOf(output: Uint8Array): wire.Output {
  return wire.Output.getRootAsOutput(new flatbuffers.ByteBuffer(output));
}

function partedAt({ header }: TraceReader, core: WasmCore, step: number): string {
  const place = `From step ${step} on this core's plans are not the recorded ones, so what follows is not shown.`;
  if (core.sha256 === header.coreSha256)
    return `${place} The core is the one that recorded it: the trace was changed, or the machine is at fault.`;
  return (
    `${place} The trace was recorded by another core (${header.coreSha256.slice(0, 12)}, Kadenz ${header.kadenzVersion}; ` +
    `this one is ${core.sha256.slice(0, 12)}): look at it with the Kadenz that wrote it.`
  );
}
