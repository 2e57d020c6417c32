// How many KV blocks fit beside the weights: what an engine would find, estimated.
//
//   memory x utilization - runtime - weights - activations of the largest step - logits of the most sequences

import { KadenzError } from '../../errors.js';
import type { DeviceProfile, ModelShape } from '../cost_model.js';

/** The core's most. */
const MAX_BLOCKS = 2 ** 24;

export interface MemoryShape {
  utilization: number;
  blockSize: number;
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
}

export function kvBlocksThatFit(device: DeviceProfile, model: ModelShape, shape: MemoryShape): number {
  const activations = shape.maxNumBatchedTokens * model.activationBytesPerRow;
  const logits = shape.maxNumSeqs * model.logitBytesPerSample;
  const usable = device.memoryBytes * shape.utilization - device.contextBytes;
  const kvBytes = usable - model.weightBytes - activations - logits;
  const blocks = Math.floor(kvBytes / (shape.blockSize * model.kvBytesPerToken));
  if (blocks >= 1) return Math.min(MAX_BLOCKS, blocks);
  const gb = (bytes: number) => (bytes / 1e9).toFixed(1);
  throw new KadenzError(
    'invalid_argument',
    `The weights (${gb(model.weightBytes)} GB) with their activations (${gb(activations + logits)} GB) leave no room for KV ` +
      `blocks in the ${gb(usable)} GB of a ${device.name} that may be used. Choose a larger device, or another dtype.`,
    { value: kvBytes, limit: usable },
  );
}
