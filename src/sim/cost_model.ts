// How long a step takes on a device: the roofline, in whole microseconds.
//
//   bytes = the weights that a step reads, once + KV read (contextTokens) + KV written (numRows)
//   flops = 2 x parameters x rows + the LM head's for each sample + attention's, 4 x layers x heads x headDim for each (row, key)
//   time  = max(bytes / bandwidth, flops / flopsPerSecond) / efficiency + kernels x gap
//
// Everything is + - * / on doubles, which IEEE 754 fixes, so a step takes the same time on every machine that computes it.
// Not in it: sliding windows (all keys are read), tensor parallelism, the sampler, and the host's own time between two steps.

import type { ModelConfig } from '../model/index.js';

/** A device as the cost model sees it. Rates are what kernels reach, not what a data sheet says: device_profiles.ts has the sources. */
export interface DeviceProfile {
  name: string;
  /** Where the figures come from, for people. */
  source: string;
  memoryBytes: number;
  /** Taken by the runtime itself before anything is allocated. */
  contextBytes: number;
  /** Read and write together. */
  bandwidthBytesPerSecond: number;
  /** Of the matrix units, in the model's dtype. */
  flopsPerSecond: number;
  /** From one kernel's end to the next one's start, in a captured graph. */
  kernelGapUs: number;
  kernelsPerLayer: number;
  /** Embedding, final norm, LM head, sampler. */
  kernelsPerStep: number;
  /** Share of the roofline that is reached, over 0 and at most 1. */
  efficiency: number;
  /** Payload of a copy within the device. */
  copyBytesPerSecond: number;
  /** Pinned host memory to the device. */
  hostBytesPerSecond: number;
  /** Broadcast to the devices of one machine; null: it has no such link. */
  peerBytesPerSecond: number | null;
}

/** A model as the cost model sees it. */
export interface ModelShape {
  /** All of them, embeddings too. */
  numParameters: number;
  weightBytes: number;
  /** An untied input embedding is not one of them. */
  weightBytesPerStep: number;
  kvBytesPerToken: number;
  numLayers: number;
  /** Matrix products of the layers, for each row. */
  flopsPerRow: number;
  /** The LM head, for each row that is sampled. */
  flopsPerSample: number;
  /** Scores and values, for each pair of a row and a token that it attends to. */
  flopsPerAttendedToken: number;
  vocabSize: number;
  maxPositionEmbeddings: number;
  /** Buffers of one row, and of one sample: what activations and logits take beside weights and KV. */
  activationBytesPerRow: number;
  logitBytesPerSample: number;
}

/** One step's work. */
export interface StepShape {
  numRows: number;
  numSequences: number;
  /** Sum over the sequences of the context that attention reads, the step's own rows included. */
  contextTokens: number;
  numSamples: number;
  /**
   * Sum over the rows of the tokens that each attends to. Left out, every row counts as attending to the mean context: exact for
   * decode steps, and at most twice too much for a prompt computed in one piece.
   */
  attendedTokens?: number;
}

export type ModelDtype = 'bfloat16' | 'float32';

const BYTES_OF: Readonly<Record<ModelDtype, number>> = { bfloat16: 2, float32: 4 };
const LOGIT_BYTES = 4;

/** @param config of src/model's parser, so that a field that would change the shape was understood or refused */
export function modelShapeOf(config: ModelConfig, dtype: ModelDtype = 'bfloat16'): ModelShape {
  const { hiddenSize, intermediateSize, numLayers, vocabSize, headDim } = config;
  const bytes = BYTES_OF[dtype];
  const queries = config.numAttentionHeads * headDim;
  const keys = config.numKeyValueHeads * headDim;
  const products =
    hiddenSize * (queries + 2 * keys) + queries * hiddenSize + 3 * hiddenSize * intermediateSize;
  const biases =
    (config.attentionBias ? queries + 2 * keys : 0) +
    (config.attentionOutputBias ? hiddenSize : 0) +
    (config.mlpBias ? 2 * intermediateSize + hiddenSize : 0);
  const norms = 2 * hiddenSize + (config.qkNorm ? 2 * headDim : 0);
  const embedding = vocabSize * hiddenSize;
  const layers = numLayers * (products + biases + norms);
  const numParameters = layers + hiddenSize + embedding * (config.tieWordEmbeddings ? 1 : 2);
  return {
    numParameters,
    weightBytes: numParameters * bytes,
    weightBytesPerStep: (layers + hiddenSize + embedding) * bytes,
    kvBytesPerToken: 2 * numLayers * keys * bytes,
    numLayers,
    flopsPerRow: 2 * numLayers * products,
    flopsPerSample: 2 * embedding,
    flopsPerAttendedToken: 4 * numLayers * queries,
    vocabSize,
    maxPositionEmbeddings: config.maxPositionEmbeddings,
    activationBytesPerRow: (4 * hiddenSize + 2 * (queries + 2 * keys) + 3 * intermediateSize) * bytes,
    logitBytesPerSample: vocabSize * LOGIT_BYTES,
  };
}

/** Whole microseconds, at least 1. */
export function stepTimeUs(device: DeviceProfile, model: ModelShape, step: StepShape): number {
  const { numRows, numSequences, contextTokens, numSamples } = step;
  const attended = step.attendedTokens ?? (numSequences === 0 ? 0 : (contextTokens * numRows) / numSequences);
  const bytes = model.weightBytesPerStep + (contextTokens + numRows) * model.kvBytesPerToken;
  const flops =
    numRows * model.flopsPerRow + numSamples * model.flopsPerSample + attended * model.flopsPerAttendedToken;
  const seconds = Math.max(bytes / device.bandwidthBytesPerSecond, flops / device.flopsPerSecond);
  const us = (seconds / device.efficiency) * 1e6 + kernelTimeUs(device, model);
  return Math.max(1, Math.round(us));
}

/** What the gaps between a step's kernels add up to. */
export function kernelTimeUs(device: DeviceProfile, model: ModelShape): number {
  return (model.numLayers * device.kernelsPerLayer + device.kernelsPerStep) * device.kernelGapUs;
}
