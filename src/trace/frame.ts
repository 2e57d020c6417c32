// The file around the tables of schemas/trace.fbs: a preamble, then frames. docs/trace-format.md describes it for other languages.
//
//   preamble   "KADENZTR"  version u32  0 u32
//   frame      stored bytes u32  raw bytes u32  codec u32  0 u32  checksum u64  |  payload  |  zeros up to a multiple of 8
//
// Little-endian. The checksum is XXH3-64 over the first 16 bytes of the head and the payload as stored. A payload is a TraceFrame, as it
// is (codec 0) or compressed (codec 1, zstd; raw bytes is its size before).

import { KadenzError } from '../errors.js';
import type { Checksum } from './checksum.js';
import type { Compression } from './compression.js';

export const TRACE_VERSION = 1;
export const PREAMBLE_BYTES = 16;
export const FRAME_HEAD_BYTES = 24;
/** More than any frame has: a command is at most as large as the core's box for it. A length above it is damage. */
export const MAX_FRAME_BYTES = 2 ** 28;
export const CODEC_NONE = 0;
export const CODEC_ZSTD = 1;

const MAGIC = Buffer.from('KADENZTR', 'latin1');
const CHECKED_HEAD_BYTES = 16;

export interface FrameHead {
  storedBytes: number;
  rawBytes: number;
  codec: number;
  checksum: bigint;
}

export function preamble(): Uint8Array {
  const bytes = new Uint8Array(PREAMBLE_BYTES);
  bytes.set(MAGIC);
  new DataView(bytes.buffer).setUint32(MAGIC.length, TRACE_VERSION, true);
  return bytes;
}

/** The version of a trace, from its first bytes; null when these are no trace's. */
export function versionOf(bytes: Uint8Array): number | null {
  if (bytes.byteLength < PREAMBLE_BYTES || MAGIC.compare(bytes.subarray(0, MAGIC.length)) !== 0) return null;
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(MAGIC.length, true);
}

/** Bytes of a payload of this size in the file, without its head. */
export function paddedBytes(storedBytes: number): number {
  return Math.ceil(storedBytes / 8) * 8;
}

/** A whole frame: head, payload, padding. */
export function frameBytes(
  payload: Uint8Array,
  { checksum, zstd }: { checksum: Checksum; zstd?: Compression | undefined },
): Uint8Array {
  if (payload.byteLength > MAX_FRAME_BYTES) {
    throw new KadenzError(
      'record_failed',
      `A frame of the trace takes ${payload.byteLength} bytes; it can have ${MAX_FRAME_BYTES}.`,
      { value: payload.byteLength, limit: MAX_FRAME_BYTES },
    );
  }
  const stored = zstd === undefined ? payload : zstd.compress(payload);
  const bytes = new Uint8Array(FRAME_HEAD_BYTES + paddedBytes(stored.byteLength));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, stored.byteLength, true);
  view.setUint32(4, payload.byteLength, true);
  view.setUint32(8, zstd === undefined ? CODEC_NONE : CODEC_ZSTD, true);
  bytes.set(stored, FRAME_HEAD_BYTES);
  view.setBigUint64(CHECKED_HEAD_BYTES, checksum(bytes.subarray(0, CHECKED_HEAD_BYTES), stored), true);
  return bytes;
}

export function parseHead(bytes: Uint8Array): FrameHead {
  const view = new DataView(bytes.buffer, bytes.byteOffset, FRAME_HEAD_BYTES);
  return {
    storedBytes: view.getUint32(0, true),
    rawBytes: view.getUint32(4, true),
    codec: view.getUint32(8, true),
    checksum: view.getBigUint64(CHECKED_HEAD_BYTES, true),
  };
}

/** Whether head and stored payload are as they were written. */
export function isIntact(head: Uint8Array, stored: Uint8Array, checksum: Checksum): boolean {
  return checksum(head.subarray(0, CHECKED_HEAD_BYTES), stored) === parseHead(head).checksum;
}
