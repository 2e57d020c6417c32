// A Result's bytes for a number of samples, made once, and how to make them those of another step: making results is the host's work, and
// no part of what a benchmark of the core or of the recorder measures.
import * as flatbuffers from 'flatbuffers';
import { encodeResult } from '../dist/core/index.js';
import { Result } from '../dist/generated/index.js';

export function preparedResult(samples) {
  const bytes = encodeResult({
    step: 1,
    tokenIds: Int32Array.from({ length: samples }, (_, i) => 1 + ((i * 31) % 49_999)),
    logprobs: new Float32Array(samples).fill(-1),
    ranks: new Uint32Array(samples),
    topEnds: new Uint32Array(samples),
  });
  const table = Result.getRootAsResult(new flatbuffers.ByteBuffer(bytes));
  const at = table.bb_pos + table.bb.__offset(table.bb_pos, 4);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  return {
    bytes,
    setStep(step) {
      view.setBigUint64(at, BigInt(step), true);
    },
  };
}
