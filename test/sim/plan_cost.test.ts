import { describe, expect, it } from 'vitest';
import { readModelConfig } from '../../dist/model/config_json.js';
import { expectedTensors } from '../../dist/model/index.js';
import { type DeviceProfile, modelShapeOf, stepTimeUs } from '../../dist/sim/cost_model.js';
import { DEVICE_PROFILE_NAMES, deviceProfile } from '../../dist/sim/device_profiles.js';
import { QWEN3_8B } from './plan_cases.js';

const shapeOf = (fields: Record<string, unknown> = {}) =>
  modelShapeOf(readModelConfig({ ...QWEN3_8B, ...fields }, 'config.json'));

/** One that computes a byte, a FLOP and a gap in round times. */
const ROUND: DeviceProfile = {
  ...deviceProfile('h200'),
  bandwidthBytesPerSecond: 1e12,
  flopsPerSecond: 1e15,
  kernelGapUs: 0,
  efficiency: 1,
};

describe('the shape of a model', () => {
  it.each([
    ['Qwen3', {}],
    ['tied', { tie_word_embeddings: true }],
    [
      'Llama with biases',
      { architectures: ['LlamaForCausalLM'], model_type: 'llama', attention_bias: true, mlp_bias: true },
    ],
    ['Qwen2', { architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2' }],
  ])('has as many parameters as its tensors have elements: %s', (_, fields) => {
    const config = readModelConfig({ ...QWEN3_8B, ...fields }, 'config.json');
    let elements = 0;
    for (const size of expectedTensors(config).values())
      elements += size.reduce((product, one) => product * one, 1);
    expect(modelShapeOf(config).numParameters).toBe(elements);
  });

  it('reads every weight in a step but an untied input embedding', () => {
    const embeddingBytes = 151_936 * 4096 * 2;
    expect(shapeOf().weightBytes - shapeOf().weightBytesPerStep).toBe(embeddingBytes);
    expect(shapeOf({ tie_word_embeddings: true }).weightBytesPerStep).toBe(
      shapeOf({ tie_word_embeddings: true }).weightBytes,
    );
  });

  it('keeps keys and values of all layers for each token', () => {
    expect(shapeOf().kvBytesPerToken).toBe(2 * 36 * 8 * 128 * 2);
    expect(modelShapeOf(readModelConfig(QWEN3_8B, 'config.json'), 'float32').kvBytesPerToken).toBe(
      2 * 36 * 8 * 128 * 4,
    );
  });
});

describe('the time of a step', () => {
  const model = shapeOf();

  it('is that of reading the weights and the KV, where few sequences decode', () => {
    const step = { numRows: 100, numSequences: 100, contextTokens: 4000, numSamples: 100 };
    const bytes = model.weightBytesPerStep + 4100 * 147_456;
    expect(stepTimeUs(ROUND, model, step)).toBe(Math.round(bytes / 1e6));
  });

  it('is that of the products and of attention, where a prompt is computed', () => {
    const attendedTokens = (8192 * 8193) / 2;
    const step = { numRows: 8192, numSequences: 1, contextTokens: 8192, numSamples: 1, attendedTokens };
    const products = 36 * (4096 * (4096 + 2048) + 4096 * 4096 + 3 * 4096 * 12_288);
    const flops = 2 * 8192 * products + 2 * 151_936 * 4096 + 4 * 36 * 4096 * attendedTokens;
    expect(stepTimeUs(ROUND, model, step)).toBe(Math.round(flops / 1e9));
  });

  it('counts every row as attending to the mean context, where nothing else is said', () => {
    const step = { numRows: 3000, numSequences: 3, contextTokens: 3000, numSamples: 3 };
    expect(stepTimeUs(ROUND, model, step)).toBe(
      stepTimeUs(ROUND, model, { ...step, attendedTokens: 3_000_000 }),
    );
    expect(stepTimeUs(ROUND, model, step)).toBeGreaterThan(
      stepTimeUs(ROUND, model, { ...step, attendedTokens: 1_500_000 }),
    );
  });

  it('grows by the gaps of all kernels, and as the efficiency falls', () => {
    const step = { numRows: 1, numSequences: 1, contextTokens: 1, numSamples: 1 };
    const plain = stepTimeUs(ROUND, model, step);
    const gaps = stepTimeUs(
      { ...ROUND, kernelGapUs: 1, kernelsPerLayer: 10, kernelsPerStep: 8 },
      model,
      step,
    );
    expect(gaps - plain).toBe(36 * 10 + 8);
    expect(Math.abs(stepTimeUs({ ...ROUND, efficiency: 0.5 }, model, step) - 2 * plain)).toBeLessThanOrEqual(
      1,
    );
  });

  it('is at least a microsecond, even of a step without rows', () => {
    const nothing = { ...model, weightBytesPerStep: 0 };
    expect(stepTimeUs(ROUND, nothing, { numRows: 0, numSequences: 0, contextTokens: 0, numSamples: 0 })).toBe(
      1,
    );
  });
});

describe('device profiles', () => {
  it('are whole: every rate is a positive number, and a name gives its own profile', () => {
    for (const name of DEVICE_PROFILE_NAMES) {
      const { source, peerBytesPerSecond, kernelGapUs, contextBytes, ...rates } = deviceProfile(name);
      expect(rates.name).toBe(name);
      expect(source).toMatch(/measured|data sheet/);
      expect(kernelGapUs).toBeGreaterThanOrEqual(0);
      expect(contextBytes).toBeGreaterThanOrEqual(0);
      if (peerBytesPerSecond !== null) expect(peerBytesPerSecond).toBeGreaterThan(1e9);
      for (const value of Object.values(rates))
        if (typeof value === 'number') expect(value).toBeGreaterThan(0);
    }
  });

  it('are copies: changing one changes no other', () => {
    deviceProfile('h200').efficiency = 0.1;
    expect(deviceProfile('h200').efficiency).toBe(0.75);
  });

  it('that do not exist are refused with the names of those that do', () => {
    expect(() => deviceProfile('tpu')).toThrow(/'tpu'.*h200, h100/);
  });
});
