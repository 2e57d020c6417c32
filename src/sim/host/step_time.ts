// How long a simulated step takes: a model of 7 billion parameters in bf16 on an H200, by the cost model. What is
// simulated is the schedule; the times only decide what arrives while a step runs, and how many virtual hours a
// session has seen.

import { type ModelShape, stepTimeUs } from '../cost_model.js';
import { deviceProfile } from '../device_profiles.js';
import type { PlanView } from '../step_plan.js';

const DEVICE = deviceProfile('h200');

/** 28 layers of 3584, 28 query and 4 key heads of 128, a feed-forward of 18944, a vocabulary of 152064, untied. */
const PRODUCTS = 3584 * (3584 + 2 * 512) + 3584 * 3584 + 3 * 3584 * 18_944;
const EMBEDDING = 152_064 * 3584;
const PARAMETERS = 28 * PRODUCTS + 2 * EMBEDDING;
const MODEL: ModelShape = {
  numParameters: PARAMETERS,
  weightBytes: 2 * PARAMETERS,
  weightBytesPerStep: 2 * (PARAMETERS - EMBEDDING),
  kvBytesPerToken: 2 * 28 * 512 * 2,
  numLayers: 28,
  flopsPerRow: 2 * 28 * PRODUCTS,
  flopsPerSample: 2 * EMBEDDING,
  flopsPerAttendedToken: 4 * 28 * 3584,
  vocabSize: 152_064,
  maxPositionEmbeddings: 32_768,
  activationBytesPerRow: 2 * (4 * 3584 + 2 * 4608 + 3 * 18_944),
  logitBytesPerSample: 4 * 152_064,
};

/** A control instruction. Weights take longer to load; here it is to be short, so that a session sees many. */
export const CONTROL_US = 20_000;

export function planTimeUs({ tokenIds, sequenceStart, sequenceNumTokens, sampleRow }: PlanView): number {
  let contextTokens = 0;
  for (let i = 0; i < sequenceStart.length; i++) contextTokens += sequenceStart[i]! + sequenceNumTokens[i]!;
  return stepTimeUs(DEVICE, MODEL, {
    numRows: tokenIds.length,
    numSequences: sequenceStart.length,
    contextTokens,
    numSamples: sampleRow.length,
  });
}

/** A step of eight decoding sequences with 128 tokens each: what gaps and rates are counted in. */
export const USUAL_STEP_US = stepTimeUs(DEVICE, MODEL, {
  numRows: 8,
  numSequences: 8,
  contextTokens: 1024,
  numSamples: 8,
});
