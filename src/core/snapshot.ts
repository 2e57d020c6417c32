// The head of a snapshot: says what the memory behind it is of, so that no other core takes it for its own.
//
//   'KDZS' | version u32 | pages u32 | used bytes u32 | SHA-256 of core.wasm (32 bytes) | memory [0, used bytes)

import { KadenzError } from '../errors.js';

const MAGIC = 0x535a444b;
const VERSION = 1;
const SHA256_BYTES = 32;
export const SNAPSHOT_HEADER_BYTES = 16 + SHA256_BYTES;

interface SnapshotHeader {
  pages: number;
  usedBytes: number;
  sha256: Uint8Array;
}

export function writeSnapshotHeader(
  snapshot: Uint8Array,
  { pages, usedBytes, sha256 }: SnapshotHeader,
): void {
  const view = new DataView(snapshot.buffer, snapshot.byteOffset, SNAPSHOT_HEADER_BYTES);
  for (const [i, word] of [MAGIC, VERSION, pages, usedBytes].entries()) view.setUint32(4 * i, word, true);
  snapshot.set(sha256, 16);
}

/** Throws a KadenzError unless the bytes are a whole snapshot of the core with this hash. */
export function readSnapshotHeader(snapshot: Uint8Array, sha256: Uint8Array): Omit<SnapshotHeader, 'sha256'> {
  const refuse = (why: string): never => {
    throw new KadenzError('invalid_snapshot', `The snapshot can't be restored: ${why}.`);
  };
  if (snapshot.byteLength < SNAPSHOT_HEADER_BYTES)
    refuse(`${snapshot.byteLength} bytes are too few to be one`);
  const view = new DataView(snapshot.buffer, snapshot.byteOffset, SNAPSHOT_HEADER_BYTES);
  const [magic, version, pages, usedBytes] = [0, 4, 8, 12].map((at) => view.getUint32(at, true)) as [
    number,
    number,
    number,
    number,
  ];
  if (magic !== MAGIC) refuse('it does not begin as one');
  if (version !== VERSION) refuse(`it is of format ${version}, and this version reads format ${VERSION}`);
  const hash = snapshot.subarray(16, SNAPSHOT_HEADER_BYTES);
  if (!sha256.every((byte, i) => hash[i] === byte)) refuse('another build of the core made it');
  if (
    snapshot.byteLength !== SNAPSHOT_HEADER_BYTES + usedBytes ||
    pages > 65_536 ||
    usedBytes > pages * 65_536
  ) {
    refuse(`it says ${usedBytes} bytes and has ${snapshot.byteLength - SNAPSHOT_HEADER_BYTES}`);
  }
  return { pages, usedBytes };
}
