// What tells two models apart without reading all of their weights: configuration, tensor table, and samples of every tensor's bytes.
//
// A training step changes nearly every weight, so three pages of each tensor see it. A single value changed by hand may go unseen: equal
// fingerprints are a strong hint, equal tokens are the proof (kadenz replay --execute).

import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';
import type { LoadedModel } from './load_model.js';

const SAMPLE_BYTES = 4096;
/** Tensors up to this size are read whole. */
const WHOLE_BYTES = 65_536;

/** SHA-256, in hexadecimal. */
export function modelFingerprint(model: Pick<LoadedModel, 'fingerprint' | 'tensors' | 'files'>): string {
  const hash = createHash('sha256').update(model.fingerprint);
  const files = model.files.map((path) => openSync(path, 'r'));
  try {
    for (const { file, beginBytes, endBytes } of model.tensors) {
      for (const [at, count] of samplesOf(beginBytes, endBytes)) {
        const bytes = new Uint8Array(count);
        hash.update(bytes.subarray(0, readSync(files[file]!, bytes, 0, count, at)));
      }
    }
  } finally {
    for (const file of files) closeSync(file);
  }
  return hash.digest('hex');
}

/** Beginning, middle and end. */
function samplesOf(begin: number, end: number): [at: number, count: number][] {
  const size = end - begin;
  if (size <= WHOLE_BYTES) return [[begin, size]];
  const middle = begin + Math.floor((size - SAMPLE_BYTES) / 2);
  return [begin, middle, end - SAMPLE_BYTES].map((at) => [at, SAMPLE_BYTES]);
}
