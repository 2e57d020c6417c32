// Small helpers around the FlatBuffers runtime: whole typed arrays into a builder, aligned views out of bytes, and the one
// rule for 64-bit integers (numbers where they are exact, bigints beyond).

import * as flatbuffers from 'flatbuffers';
import { KadenzError, type KadenzErrorCode } from '../errors.js';

/** Where an argument came from, so that its error can say so. */
export interface Origin {
  code: KadenzErrorCode;
  name: string;
  request?: number | bigint;
}

export type Integers = readonly number[] | Int32Array | Uint32Array;

const MAX_U64 = 2n ** 64n - 1n;

/**
 * A buffer over a message. Typed-array views into it need its start aligned to 8: a message that lies elsewhere (inside a file
 * that was read, say) is copied first.
 */
export function messageBuffer(bytes: Uint8Array): flatbuffers.ByteBuffer {
  return new flatbuffers.ByteBuffer(bytes.byteOffset % 8 === 0 ? bytes : bytes.slice());
}

/** 64-bit integers are numbers as long as those are exact. */
export function fromWide(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

function refuse(origin: Origin, value: unknown, allowed: string): never {
  const prefix = origin.request === undefined ? '' : `Request ${origin.request}: `;
  throw new KadenzError(
    origin.code,
    `${prefix}${origin.name} is ${describe(value)}; it must be ${allowed}.`,
    {
      value,
      ...(origin.request === undefined ? {} : { request: origin.request }),
    },
  );
}

function describe(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}

/** An integer that the wire can carry in 32 bits; what it may be beyond that is the core's to say. */
export function uint32(value: number, origin: Origin): number {
  if (Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff) return value;
  return refuse(origin, value, 'an integer from 0 to 4294967295');
}

export function int32(value: number, origin: Origin): number {
  if (Number.isInteger(value) && value >= -0x8000_0000 && value <= 0x7fff_ffff) return value;
  return refuse(origin, value, 'an integer of 32 bits');
}

export function uint64(value: number | bigint, origin: Origin): bigint {
  if (typeof value === 'bigint' && value >= 0n && value <= MAX_U64) return value;
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return BigInt(value);
  return refuse(origin, value, 'an integer from 0 to 2^64 - 1 (a bigint where a number is not exact)');
}

/** A number, as a float32: the core refuses what is not finite where that makes no sense. */
export function float32(value: number, origin: Origin): number {
  return typeof value === 'number' ? value : refuse(origin, value, 'a number');
}

export function boolean(value: boolean, origin: Origin): boolean {
  return typeof value === 'boolean' ? value : refuse(origin, value, 'true or false');
}

/** Token ids as an Int32Array, each one checked: a typed array would round and wrap in silence. */
export function tokenIds(values: Integers, origin: Origin): Int32Array {
  if (values instanceof Int32Array) return values;
  const ids = new Int32Array(values.length);
  for (let i = 0; i < values.length; i += 1) {
    ids[i] = values[i]!;
    if (ids[i] !== values[i]) refuse(origin, values[i], 'an integer of 32 bits');
  }
  return ids;
}

/**
 * Writes a whole typed array as a vector. The builder's public way is element by element, which costs more than all the rest of
 * a command with long prompts; this is its createByteVector with wider elements (the wire and the machine are little-endian).
 */
export function putVector(
  builder: flatbuffers.Builder,
  elements: Int32Array | Uint32Array | Float32Array | Uint16Array | BigUint64Array,
): flatbuffers.Offset {
  const { length, BYTES_PER_ELEMENT } = elements;
  builder.startVector(BYTES_PER_ELEMENT, length, BYTES_PER_ELEMENT);
  const inner = builder as unknown as { space: number; bb: flatbuffers.ByteBuffer };
  inner.space -= elements.byteLength;
  const bytes = new Uint8Array(elements.buffer, elements.byteOffset, elements.byteLength);
  inner.bb.bytes().set(bytes, inner.space);
  return builder.endVector();
}

/** The finished message, in a buffer of its own that can change hands. */
export function finishMessage(builder: flatbuffers.Builder, root: flatbuffers.Offset): Uint8Array {
  builder.finish(root);
  return builder.asUint8Array().slice();
}
