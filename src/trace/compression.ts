// Compression of frames, one by one, so that what a killed process leaves behind can still be read.

import { Zstd } from '@hpcc-js/wasm-zstd';

export interface Compression {
  compress(bytes: Uint8Array): Uint8Array;
  decompress(bytes: Uint8Array): Uint8Array;
}

const LEVEL = 3;

let loaded: Promise<Compression> | undefined;

export function loadZstd(): Promise<Compression> {
  loaded ??= Zstd.load().then((zstd) => ({
    compress: (bytes: Uint8Array) => zstd.compress(bytes, LEVEL),
    decompress: (bytes: Uint8Array) => zstd.decompress(bytes),
  }));
  return loaded;
}

/** What a zstd frame says its content takes (RFC 8878, 3.1.1.1); null when it does not say, or is no zstd frame. */
export function zstdContentBytes(bytes: Uint8Array): number | null {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.byteLength < 5 || view.getUint32(0, true) !== 0xfd2fb528) return null;
  const descriptor = bytes[4]!;
  const isSingleSegment = (descriptor & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3]!;
  const at = 5 + (isSingleSegment ? 0 : 1) + dictionaryBytes;
  const sizeBytes = [isSingleSegment ? 1 : 0, 2, 4, 8][descriptor >> 6]!;
  if (sizeBytes === 0 || bytes.byteLength < at + sizeBytes) return null;
  if (sizeBytes === 1) return bytes[at]!;
  if (sizeBytes === 2) return view.getUint16(at, true) + 256;
  if (sizeBytes === 4) return view.getUint32(at, true);
  return Number(view.getBigUint64(at, true));
}
