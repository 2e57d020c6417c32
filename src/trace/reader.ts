// Reads a trace: the header at once, then event by event, so that a file of any size can be read. Nothing is trusted before it was checked:
// checksum, then structure (verify.ts).
//
// A file that ends in the middle of a frame is what a killed process leaves behind: its events up to there are good, and `problem` says
// so once they have been read. A frame whose bytes are not what was written is damage: what comes before it is good too, and `problem`
// names it. What can't be read at all (no trace, another version) throws when it is opened.

import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { messageBuffer } from '../core/index.js';
import { KadenzError } from '../errors.js';
import * as wire from '../generated/index.js';
import { type Checksum, loadChecksum } from './checksum.js';
import { type Compression, loadZstd, zstdContentBytes } from './compression.js';
import {
  CODEC_NONE,
  CODEC_ZSTD,
  FRAME_HEAD_BYTES,
  type FrameHead,
  isIntact,
  MAX_FRAME_BYTES,
  PREAMBLE_BYTES,
  paddedBytes,
  parseHead,
  TRACE_VERSION,
  versionOf,
} from './frame.js';
import type { TraceHeader } from './payload.js';
import { readSteps, type StepEvent } from './read_steps.js';
import { Damage, verifyFrame } from './verify.js';

export interface CommandEvent {
  kind: 'command';
  /** The step that was committed last; 0 = none yet. */
  afterStep: number;
  timeUs: number;
  /** How often, since the event before, schedule was called until it gave nothing. */
  rounds: number;
  /** A Command; the core verifies it when it is applied. */
  command: Uint8Array;
}

export interface EndEvent {
  kind: 'end';
  timeUs: number;
  numSteps: number;
  digest: bigint;
}

export type TraceEvent = CommandEvent | StepEvent | EndEvent;

/** Why the events end before the run did. */
export interface TraceProblem {
  /** cut: the file ends within a frame, or without an end frame. corrupt: a frame is not what was written. */
  kind: 'cut' | 'corrupt';
  /** Of the frame, in bytes from the start of the file, and counted from 0 (the header). */
  offset: number;
  frame: number;
  sentence: string;
}

export class TraceReader {
  readonly path: string;
  readonly header: TraceHeader;
  readonly #file: number;
  readonly #fileBytes: number;
  readonly #checksum: Checksum;
  readonly #zstd: Compression;
  readonly #firstEvent: number;
  #problem: TraceProblem | null = null;

  /** Throws trace_not_found, trace_unsupported (no trace, another version) or trace_corrupt (its header). */
  static async open(path: string): Promise<TraceReader> {
    const [checksum, zstd] = await Promise.all([loadChecksum(), loadZstd()]);
    return new TraceReader(path, { checksum, zstd });
  }

  private constructor(path: string, { checksum, zstd }: { checksum: Checksum; zstd: Compression }) {
    this.path = path;
    this.#checksum = checksum;
    this.#zstd = zstd;
    this.#file = openFile(path);
    try {
      const file = fstatSync(this.#file);
      if (!file.isFile())
        throw new KadenzError('trace_unsupported', `${path} is no file; give a trace of Kadenz.`, { path });
      this.#fileBytes = file.size;
      requireVersion(path, versionOf(this.#read(0, PREAMBLE_BYTES)));
      const frame = this.#frameAt(PREAMBLE_BYTES, 0);
      if ('kind' in frame) throw new KadenzError('trace_corrupt', `${path}: ${frame.sentence}`, { ...frame });
      this.header = readHeader(path, frame.payload);
      this.#firstEvent = frame.end;
    } catch (error) {
      closeSync(this.#file);
      throw error;
    }
  }

  /** Set once `events` has come to its end: null for a whole trace. */
  get problem(): TraceProblem | null {
    return this.#problem;
  }

  /** All events, in order. Their bytes are views that stay valid. Can be started again. */
  *events(): Generator<TraceEvent, void> {
    this.#problem = null;
    let at = this.#firstEvent;
    let nextStep = 1;
    for (let number = 1; ; number += 1) {
      const frame = this.#frameAt(at, number);
      if ('kind' in frame) {
        this.#problem = frame;
        return;
      }
      const { payload } = frame;
      const table = wire.TraceFrame.getRootAsTraceFrame(messageBuffer(payload));
      if (table.bodyType() === wire.TraceBody.TraceSteps) {
        const steps: wire.TraceSteps = table.body(new wire.TraceSteps());
        if (Number(steps.firstStep()) !== nextStep) {
          this.#problem = outOfPlace(at, number, `begins with step ${steps.firstStep()}`, nextStep);
          return;
        }
        nextStep += steps.stepsLength();
        yield* readSteps(steps);
      } else if (table.bodyType() === wire.TraceBody.TraceCommand) {
        const command: wire.TraceCommand = table.body(new wire.TraceCommand());
        if (Number(command.afterStep()) !== nextStep - 1) {
          this.#problem = outOfPlace(at, number, `was applied after step ${command.afterStep()}`, nextStep);
          return;
        }
        yield readCommand(command);
      } else if (table.bodyType() === wire.TraceBody.TraceEnd) {
        yield readEnd(table.body(new wire.TraceEnd()));
        return;
      } else {
        const sentence = `frame ${number} at byte ${at} is a second header.`;
        this.#problem = { kind: 'corrupt', offset: at, frame: number, sentence };
        return;
      }
      at = frame.end;
    }
  }

  close(): void {
    closeSync(this.#file);
  }

  #read(at: number, count: number): Uint8Array {
    const bytes = new Uint8Array(Math.max(0, Math.min(count, this.#fileBytes - at)));
    let done = 0;
    while (done < bytes.byteLength) {
      const got = readSync(this.#file, bytes, done, bytes.byteLength - done, at + done);
      if (got === 0) return bytes.subarray(0, done);
      done += got;
    }
    return bytes;
  }

  #frameAt(offset: number, frame: number): { payload: Uint8Array; end: number } | TraceProblem {
    const cut = (sentence: string): TraceProblem => ({ kind: 'cut', offset, frame, sentence });
    const corrupt = (what: string): TraceProblem => {
      return {
        kind: 'corrupt',
        offset,
        frame,
        sentence: `frame ${frame} at byte ${offset} is damaged: ${what}.`,
      };
    };
    const head = this.#read(offset, FRAME_HEAD_BYTES);
    if (head.byteLength === 0 && frame === 0) return cut('the trace ends before its header.');
    if (head.byteLength === 0)
      return cut(`the trace ends after frame ${frame - 1}, without an end: its run was killed, or goes on.`);
    if (head.byteLength < FRAME_HEAD_BYTES)
      return cut(`the trace ends in the head of frame ${frame}, at byte ${this.#fileBytes}.`);
    const parsed = parseHead(head);
    if (parsed.storedBytes > MAX_FRAME_BYTES || parsed.rawBytes > MAX_FRAME_BYTES)
      return corrupt('its length is impossible');
    const stored = this.#read(offset + FRAME_HEAD_BYTES, parsed.storedBytes);
    if (stored.byteLength < parsed.storedBytes) {
      return cut(`the trace ends within frame ${frame}, at byte ${this.#fileBytes}.`);
    }
    if (!isIntact(head, stored, this.#checksum)) return corrupt('its checksum does not fit');
    const payload = this.#payloadOf(parsed, stored);
    if (payload === null) return corrupt(`its content (codec ${parsed.codec}) can't be unpacked`);
    try {
      verifyFrame(payload);
    } catch (error) {
      if (error instanceof Damage) return corrupt(error.message);
      throw error;
    }
    return { payload, end: offset + FRAME_HEAD_BYTES + paddedBytes(parsed.storedBytes) };
  }

  #payloadOf(head: FrameHead, stored: Uint8Array): Uint8Array | null {
    if (head.codec === CODEC_NONE) return head.rawBytes === stored.byteLength ? stored : null;
    if (head.codec !== CODEC_ZSTD || zstdContentBytes(stored) !== head.rawBytes) return null;
    try {
      const payload = this.#zstd.decompress(stored);
      return payload.byteLength === head.rawBytes ? payload.slice() : null;
    } catch {
      return null;
    }
  }
}

function openFile(path: string): number {
  try {
    return openSync(path, 'r');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new KadenzError('trace_not_found', `The trace ${path} can't be opened: ${reason}.`, {
      path,
      cause,
    });
  }
}

/** A frame is whole, but others are missing before it, or stand twice. */
function outOfPlace(offset: number, frame: number, what: string, nextStep: number): TraceProblem {
  const sentence = `frame ${frame} at byte ${offset} is out of place: it ${what}, and step ${nextStep} comes next.`;
  return { kind: 'corrupt', offset, frame, sentence };
}

function requireVersion(path: string, version: number | null): void {
  if (version === TRACE_VERSION) return;
  if (version === null) {
    throw new KadenzError('trace_unsupported', `${path} is no trace of Kadenz: it does not begin like one.`, {
      path,
    });
  }
  throw new KadenzError(
    'trace_unsupported',
    `${path} is a trace of version ${version}; this Kadenz reads version ${TRACE_VERSION}. ` +
      'Read it with the Kadenz that wrote it, or record the run again.',
    { path, value: version, limit: TRACE_VERSION },
  );
}

function readHeader(path: string, payload: Uint8Array): TraceHeader {
  const table = wire.TraceFrame.getRootAsTraceFrame(messageBuffer(payload));
  if (table.bodyType() !== wire.TraceBody.TraceHeader)
    throw new KadenzError('trace_corrupt', `${path}: its first frame is no header.`, { path });
  const header: wire.TraceHeader = table.body(new wire.TraceHeader());
  requireVersion(path, header.traceVersion());
  return {
    kadenzVersion: header.kadenzVersion() ?? '',
    coreSha256: Buffer.from(header.coreSha256Array() ?? []).toString('hex'),
    configure: (header.configureArray() ?? new Uint8Array(0)).slice(),
    model: header.model() ?? '',
    modelFingerprint: header.modelFingerprint() ?? '',
    hostFingerprint: header.hostFingerprint() ?? '',
    createdUnixMs: Number(header.createdUnixMs()),
    hasPlans: header.hasPlans(),
  };
}

function readCommand(entry: wire.TraceCommand): CommandEvent {
  return {
    kind: 'command',
    afterStep: Number(entry.afterStep()),
    timeUs: Number(entry.timeUs()),
    rounds: entry.rounds(),
    command: entry.commandArray() ?? new Uint8Array(0),
  };
}

function readEnd(entry: wire.TraceEnd): EndEvent {
  return {
    kind: 'end',
    timeUs: Number(entry.timeUs()),
    numSteps: Number(entry.numSteps()),
    digest: entry.digest(),
  };
}
