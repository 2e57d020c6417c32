// config.json: what each architecture's fields come to, and what is refused, by name.

import { describe, expect, it } from 'vitest';
import { readModelConfig } from '../../src/model/config_json.js';

type Fields = Record<string, unknown>;

const SIZES: Fields = {
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 3,
  num_attention_heads: 8,
  num_key_value_heads: 2,
  vocab_size: 100,
};
const LLAMA: Fields = { ...SIZES, architectures: ['LlamaForCausalLM'], model_type: 'llama' };
const MISTRAL: Fields = { ...SIZES, architectures: ['MistralForCausalLM'], model_type: 'mistral' };
const QWEN2: Fields = { ...SIZES, architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2' };
const QWEN3: Fields = { ...SIZES, architectures: ['Qwen3ForCausalLM'], model_type: 'qwen3' };

const read = (fields: Fields) => readModelConfig(fields, 'config.json');
const without = (fields: Fields, name: string) =>
  Object.fromEntries(Object.entries(fields).filter(([key]) => key !== name));

describe('config.json', () => {
  it('of each architecture is resolved with the defaults of its transformers class', () => {
    expect(read(LLAMA)).toMatchObject({
      headDim: 8,
      maxPositionEmbeddings: 2048,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false,
      attentionBias: false,
      attentionOutputBias: false,
      mlpBias: false,
      qkNorm: false,
      slidingWindow: 0,
      layerUsesSlidingWindow: [false, false, false],
      rope: { kind: 'default', theta: 10_000, attentionFactor: 1 },
    });
    expect(read(MISTRAL)).toMatchObject({
      slidingWindow: 4096,
      layerUsesSlidingWindow: [true, true, true],
      maxPositionEmbeddings: 131_072,
    });
    expect(read(QWEN2)).toMatchObject({
      attentionBias: true,
      attentionOutputBias: false,
      slidingWindow: 0,
      maxPositionEmbeddings: 32_768,
    });
    expect(read(QWEN3)).toMatchObject({ qkNorm: true, headDim: 128, attentionBias: false });
  });

  it('without num_key_value_heads has one for each attention head in a Llama, the class default elsewhere', () => {
    expect(read(without(LLAMA, 'num_key_value_heads')).numKeyValueHeads).toBe(8);
    expect(read({ ...LLAMA, num_key_value_heads: null }).numKeyValueHeads).toBe(8);
    expect(read(without(MISTRAL, 'num_key_value_heads')).numKeyValueHeads).toBe(8);
    expect(read({ ...QWEN2, num_key_value_heads: null }).numKeyValueHeads).toBe(8);
    expect(() => read(without(QWEN3, 'num_key_value_heads'))).toThrow(/num_key_value_heads is 32/); // of 8 attention heads
  });

  it('with biases has them where the architecture has them', () => {
    expect(read({ ...LLAMA, attention_bias: true, mlp_bias: true })).toMatchObject({
      attentionBias: true,
      attentionOutputBias: true,
      mlpBias: true,
    });
    expect(read({ ...QWEN3, attention_bias: true })).toMatchObject({
      attentionBias: true,
      attentionOutputBias: true,
    });
  });

  it('with a sliding window uses it in the layers that it says', () => {
    expect(read({ ...MISTRAL, sliding_window: null })).toMatchObject({
      slidingWindow: 0,
      layerUsesSlidingWindow: [false, false, false],
    });
    const windowed = { ...QWEN2, use_sliding_window: true, sliding_window: 9 };
    expect(read({ ...windowed, max_window_layers: 1 })).toMatchObject({
      slidingWindow: 9,
      layerUsesSlidingWindow: [false, true, true],
    });
    expect(read(windowed).layerUsesSlidingWindow).toEqual([false, false, false]);
    expect(
      read({ ...QWEN2, use_sliding_window: false, sliding_window: 9, max_window_layers: 0 }).slidingWindow,
    ).toBe(0);
    const types = ['sliding_attention', 'full_attention', 'sliding_attention'];
    expect(read({ ...windowed, layer_types: types }).layerUsesSlidingWindow).toEqual([true, false, true]);
    expect(
      read({ ...QWEN3, layer_types: ['full_attention', 'full_attention', 'full_attention'] }).slidingWindow,
    ).toBe(0);
  });

  it('with fields that train, name or run a model elsewhere is not kept from loading', () => {
    const harmless = {
      ...{
        torch_dtype: 'bfloat16',
        dtype: 'float32',
        transformers_version: '5.0.0',
        use_cache: true,
        bos_token_id: 1,
        _name_or_path: '',
      },
      ...{
        initializer_range: 0.02,
        attention_dropout: 0.1,
        pretraining_tp: 1,
        hidden_act: 'silu',
        is_encoder_decoder: false,
      },
      ...{
        rope_interleaved: false,
        is_llama_config: true,
        'transformers.js_config': { dtype: 'q4' },
        quantization_config: null,
      },
    };
    expect(read({ ...LLAMA, ...harmless })).toEqual(read(LLAMA));
  });

  const refused: [string, Fields, string, RegExp][] = [
    ['an unknown field', { ...LLAMA, logit_scale: 0.5 }, 'unsupported_config', /logit_scale = 0.5/],
    [
      'a field of another architecture',
      { ...LLAMA, use_sliding_window: true },
      'unsupported_config',
      /use_sliding_window/,
    ],
    [
      'quantisation',
      { ...LLAMA, quantization_config: { bits: 4 } },
      'unsupported_config',
      /quantization_config/,
    ],
    [
      'code of its own',
      { ...LLAMA, auto_map: { AutoModel: 'evil.Model' } },
      'unsupported_config',
      /auto_map/,
    ],
    ['another activation', { ...LLAMA, hidden_act: 'gelu' }, 'unsupported_config', /hidden_act is "gelu"/],
    ['tensor-parallel slicing', { ...LLAMA, pretraining_tp: 2 }, 'unsupported_config', /pretraining_tp/],
    ['another model_type', { ...LLAMA, model_type: 'gemma' }, 'unsupported_config', /model_type is "gemma"/],
    [
      'interleaved rotary pairs',
      { ...LLAMA, rope_interleaved: true },
      'unsupported_config',
      /rope_interleaved/,
    ],
    [
      'a partial rotary embedding',
      { ...LLAMA, partial_rotary_factor: 0.5 },
      'unsupported_config',
      /partial_rotary_factor/,
    ],
    [
      'another architecture',
      { ...LLAMA, architectures: ['GemmaForCausalLM'] },
      'unsupported_architecture',
      /GemmaForCausalLM/,
    ],
    ['no architecture', without(LLAMA, 'architectures'), 'unsupported_architecture', /absent/],
    [
      'two architectures',
      { ...LLAMA, architectures: ['LlamaForCausalLM', 'X'] },
      'unsupported_architecture',
      /X/,
    ],
    [
      'an unknown kind of layer',
      { ...QWEN3, layer_types: ['full_attention', 'linear_attention', 'full_attention'] },
      'unsupported_config',
      /linear_attention/,
    ],
    [
      'layers that contradict the window',
      { ...QWEN3, layer_types: ['sliding_attention', 'full_attention', 'full_attention'] },
      'unsupported_config',
      /sliding window/,
    ],
    [
      'a layer list of another length',
      { ...QWEN3, layer_types: ['full_attention'] },
      'invalid_model_config',
      /3 layers/,
    ],
    ['no vocab_size', without(LLAMA, 'vocab_size'), 'invalid_model_config', /no vocab_size/],
    ['a negative size', { ...LLAMA, hidden_size: -64 }, 'invalid_model_config', /hidden_size is -64/],
    [
      'a size that is a fraction',
      { ...LLAMA, num_hidden_layers: 2.5 },
      'invalid_model_config',
      /num_hidden_layers is 2.5/,
    ],
    ['a size that is text', { ...LLAMA, vocab_size: '100' }, 'invalid_model_config', /vocab_size is "100"/],
    ['a huge size', { ...LLAMA, intermediate_size: 2 ** 60 }, 'invalid_model_config', /intermediate_size/],
    [
      'heads that do not divide',
      { ...LLAMA, num_key_value_heads: 3 },
      'invalid_model_config',
      /num_key_value_heads is 3/,
    ],
    [
      'heads that do not fill the hidden size',
      { ...LLAMA, num_attention_heads: 6, num_key_value_heads: 2 },
      'invalid_model_config',
      /multiple of num_attention_heads/,
    ],
    ['an odd head_dim', { ...LLAMA, head_dim: 7 }, 'invalid_model_config', /head_dim is 7/],
    ['an epsilon of 0', { ...LLAMA, rms_norm_eps: 0 }, 'invalid_model_config', /rms_norm_eps is 0/],
    [
      'a boolean that is a number',
      { ...LLAMA, tie_word_embeddings: 1 },
      'invalid_model_config',
      /tie_word_embeddings is 1/,
    ],
  ];
  for (const [name, fields, code, sentence] of refused) {
    it(`is refused with ${name}`, () => {
      expect(() => read(fields)).toThrow(
        expect.objectContaining({ code, message: expect.stringMatching(sentence) }),
      );
    });
  }
});

describe('the rotary embedding', () => {
  const LLAMA3 = {
    rope_type: 'llama3',
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  };
  const rope = (fields: Fields) => read({ ...LLAMA, max_position_embeddings: 4096, ...fields }).rope;

  it('is read from rope_theta and rope_scaling, with type or rope_type', () => {
    expect(rope({ rope_theta: 500_000, rope_scaling: LLAMA3 })).toMatchObject({
      kind: 'llama3',
      theta: 500_000,
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalMaxPositionEmbeddings: 8192,
    });
    expect(rope({ rope_scaling: { type: 'linear', factor: 2.5 } })).toMatchObject({
      kind: 'linear',
      factor: 2.5,
      theta: 10_000,
    });
    expect(rope({ rope_scaling: { type: 'linear', rope_type: 'linear', factor: 2 } }).kind).toBe('linear');
    expect(rope({ rope_scaling: null, rope_theta: 7 })).toMatchObject({ kind: 'default', theta: 7 });
  });

  it('is read from rope_parameters as transformers 5 writes them', () => {
    expect(rope({ rope_parameters: { rope_theta: 5e5, rope_type: 'default' } })).toMatchObject({
      kind: 'default',
      theta: 5e5,
    });
    expect(rope({ rope_parameters: { ...LLAMA3, rope_theta: 5e5 } })).toEqual(
      rope({ rope_theta: 5e5, rope_scaling: LLAMA3 }),
    );
  });

  it('of kind yarn has the attention factor that transformers computes', () => {
    const yarn = { rope_type: 'yarn', factor: 4, original_max_position_embeddings: 1024 };
    expect(rope({ rope_scaling: yarn })).toMatchObject({
      kind: 'yarn',
      factor: 4,
      betaFast: 32,
      betaSlow: 1,
      truncate: true,
      originalMaxPositionEmbeddings: 1024,
      attentionFactor: 0.1 * Math.log(4) + 1,
    });
    expect(rope({ rope_scaling: { ...yarn, factor: 0.5 } }).attentionFactor).toBe(1);
    expect(rope({ rope_scaling: { ...yarn, factor: null } }).factor).toBe(4); // 4096 / 1024
    expect(rope({ rope_scaling: { rope_type: 'yarn', factor: 2 } }).originalMaxPositionEmbeddings).toBe(4096);
    expect(
      rope({
        rope_scaling: { ...yarn, attention_factor: 1.5, beta_fast: 16, beta_slow: 2, truncate: false },
      }),
    ).toMatchObject({
      attentionFactor: 1.5,
      betaFast: 16,
      betaSlow: 2,
      truncate: false,
    });
    const scaled = rope({ rope_scaling: { ...yarn, mscale: 0.7, mscale_all_dim: 1 } });
    expect(scaled.attentionFactor).toBeCloseTo((0.07 * Math.log(4) + 1) / (0.1 * Math.log(4) + 1), 12);
    expect(rope({ rope_scaling: { ...yarn, mscale: 0.7 } }).attentionFactor).toBe(0.1 * Math.log(4) + 1);
  });

  const refused: [string, Fields, string, RegExp][] = [
    [
      'an unknown kind',
      { rope_scaling: { rope_type: 'dynamic', factor: 2 } },
      'unsupported_config',
      /"dynamic"/,
    ],
    [
      'two kinds',
      { rope_scaling: { rope_type: 'linear', type: 'yarn', factor: 2 } },
      'unsupported_config',
      /type is "yarn"/,
    ],
    [
      'rope_scaling and rope_parameters',
      { rope_scaling: LLAMA3, rope_parameters: LLAMA3 },
      'unsupported_config',
      /rope_scaling/,
    ],
    [
      'two thetas',
      { rope_theta: 1e4, rope_parameters: { rope_theta: 2e4 } },
      'unsupported_config',
      /rope_theta is 20000/,
    ],
    [
      'parameters for each kind of layer',
      { rope_parameters: { full_attention: { rope_theta: 1 } } },
      'unsupported_config',
      /full_attention/,
    ],
    [
      'an unknown parameter',
      { rope_scaling: { ...LLAMA3, mrope_section: [1] } },
      'unsupported_config',
      /mrope_section/,
    ],
    [
      'a partial rotary embedding',
      { rope_parameters: { rope_theta: 1e4, partial_rotary_factor: 0.25 } },
      'unsupported_config',
      /partial_rotary_factor/,
    ],
    ['no factor', { rope_scaling: { rope_type: 'linear' } }, 'invalid_model_config', /no factor/],
    ['a factor of 0', { rope_scaling: { ...LLAMA3, factor: 0 } }, 'invalid_model_config', /factor is 0/],
    [
      'equal frequency factors',
      { rope_scaling: { ...LLAMA3, high_freq_factor: 1 } },
      'invalid_model_config',
      /high_freq_factor is 1/,
    ],
    ['a theta that is text', { rope_theta: '10000' }, 'invalid_model_config', /rope_theta/],
    ['scaling that is a list', { rope_scaling: [1] }, 'invalid_model_config', /an object/],
  ];
  for (const [name, fields, code, sentence] of refused) {
    it(`is refused with ${name}`, () => {
      expect(() => rope(fields)).toThrow(
        expect.objectContaining({ code, message: expect.stringMatching(sentence) }),
      );
    });
  }
});
