// Taking traces apart and putting them together again, sound or not.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as flatbuffers from 'flatbuffers';
import { TraceBody, TraceCommand, TraceFrame, TraceSteps } from '../../src/generated/index.js';
import { loadChecksum } from '../../src/trace/checksum.js';
import {
  FRAME_HEAD_BYTES,
  frameBytes,
  PREAMBLE_BYTES,
  paddedBytes,
  parseHead,
  preamble,
} from '../../src/trace/frame.js';

export interface Frame {
  kind: 'header' | 'steps' | 'command' | 'end';
  /** Of the frame in its file. */
  begin: number;
  end: number;
  stored: Buffer;
}

const KINDS: Partial<Record<TraceBody, Frame['kind']>> = {
  [TraceBody.TraceHeader]: 'header',
  [TraceBody.TraceSteps]: 'steps',
  [TraceBody.TraceCommand]: 'command',
  [TraceBody.TraceEnd]: 'end',
};

/** The frames of a sound file that is not compressed. */
export function framesOf(file: Buffer): Frame[] {
  const frames: Frame[] = [];
  let at = PREAMBLE_BYTES;
  while (at < file.byteLength) {
    const { storedBytes } = parseHead(file.subarray(at, at + FRAME_HEAD_BYTES));
    const stored = file.subarray(at + FRAME_HEAD_BYTES, at + FRAME_HEAD_BYTES + storedBytes);
    const end = at + FRAME_HEAD_BYTES + paddedBytes(storedBytes);
    frames.push({ kind: KINDS[bodyOf(stored).type]!, begin: at, end, stored });
    at = end;
  }
  return frames;
}

function bodyOf(payload: Uint8Array): { type: TraceBody; table: TraceFrame } {
  const table = TraceFrame.getRootAsTraceFrame(new flatbuffers.ByteBuffer(payload));
  return { type: table.bodyType(), table };
}

/** The file again, with these payloads in these frames instead, their checksums right. */
export async function withPayloads(
  file: Buffer,
  change: (frame: Frame, index: number) => Uint8Array | null,
): Promise<Buffer> {
  const checksum = await loadChecksum();
  const payloads = framesOf(file).map((frame, index) => change(frame, index) ?? frame.stored);
  return Buffer.concat([preamble(), ...payloads.map((payload) => frameBytes(payload, { checksum }))]);
}

/** A copy of these bytes with one byte changed. */
export function flipped(bytes: Uint8Array, at: number, mask = 0xff): Buffer {
  const copy = Buffer.from(bytes);
  copy[at] = copy[at]! ^ mask;
  return copy;
}

/** Whole numbers in [0, below), the same on every machine. */
export function seededIntegers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** A folder of its own for a test file's traces, gone when the process ends. */
export function scratchFolder(): { write(name: string, bytes: Uint8Array): string } {
  const folder = mkdtempSync(join(tmpdir(), 'kadenz-replay-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  return {
    write(name, bytes) {
      const path = join(folder, name);
      writeFileSync(path, bytes);
      return path;
    },
  };
}

/** A copy of a steps payload, with its columns changed where they lie. */
export function changedSteps(payload: Uint8Array, change: (steps: TraceSteps) => void): Uint8Array {
  const copy = Uint8Array.from(payload);
  const { table } = bodyOf(copy);
  change(table.body(new TraceSteps()));
  return copy;
}

/** How many steps a frame holds. */
export function stepsIn({ kind, stored }: Frame): number {
  return kind === 'steps'
    ? (bodyOf(Uint8Array.from(stored)).table.body(new TraceSteps()) as TraceSteps).stepsLength()
    : 0;
}

/** Where in a steps payload the length of a column lies, by the column's field number. */
export function countOfColumn(payload: Uint8Array, field: number): number {
  const { table } = bodyOf(Uint8Array.from(payload));
  const { bb, bb_pos } = table.body(new TraceSteps()) as TraceSteps;
  return bb!.__vector(bb_pos + bb!.__offset(bb_pos, 4 + 2 * field)) - 4;
}

/** Where in a payload a field of its body lies, by the field's number. */
export function fieldOf({ kind, stored }: Frame, field: number): number {
  const { table } = bodyOf(Uint8Array.from(stored));
  const { bb, bb_pos } = table.body(kind === 'steps' ? new TraceSteps() : new TraceCommand()) as TraceSteps;
  return bb_pos + bb!.__offset(bb_pos, 4 + 2 * field);
}
