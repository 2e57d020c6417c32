// The checksum of frames: XXH3, 64 bits.

import { createXXHash3 } from 'hash-wasm';

/** Hash of two pieces in a row, as the number that xxHash calls canonical. Reuses one state: not for two hashes at once. */
export type Checksum = (first: Uint8Array, second: Uint8Array) => bigint;

let loaded: Promise<Checksum> | undefined;

export function loadChecksum(): Promise<Checksum> {
  loaded ??= createXXHash3().then((hasher) => (first, second) => {
    hasher.init();
    hasher.update(first);
    hasher.update(second);
    const digest = hasher.digest('binary');
    return new DataView(digest.buffer, digest.byteOffset).getBigUint64(0, false);
  });
  return loaded;
}
