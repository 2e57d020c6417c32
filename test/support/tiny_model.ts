// Small random models, written as Hugging Face directories. The same options give the same bytes.

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

export interface TinyModelOptions {
  architecture?: 'LlamaForCausalLM' | 'MistralForCausalLM' | 'Qwen2ForCausalLM' | 'Qwen3ForCausalLM';
  seed?: number;
  dtype?: 'F32' | 'F16' | 'BF16';
  hiddenSize?: number;
  intermediateSize?: number;
  numLayers?: number;
  numAttentionHeads?: number;
  numKeyValueHeads?: number;
  headDim?: number;
  vocabSize?: number;
  maxPositionEmbeddings?: number;
  tieWordEmbeddings?: boolean;
  eosTokenId?: number | number[] | null;
  /** Weights are uniform in [-scale, scale]; a larger scale gives logits that are less alike. */
  scale?: number;
  /** 1: model.safetensors. More: so many shards and an index. */
  numShards?: number;
  /** Fields that config.json gets beside (or, undefined, without) its own. */
  config?: Record<string, unknown>;
}

export interface TinyModel {
  directory: string;
  vocabSize: number;
  tensors: NamedTensor[];
}

export interface NamedTensor {
  name: string;
  dtype: 'F32' | 'F16' | 'BF16';
  shape: number[];
  bytes: Uint8Array;
}

const MODEL_TYPES = {
  LlamaForCausalLM: 'llama',
  MistralForCausalLM: 'mistral',
  Qwen2ForCausalLM: 'qwen2',
  Qwen3ForCausalLM: 'qwen3',
} as const;

export function writeTinyModel(directory: string, options: TinyModelOptions = {}): TinyModel {
  const { architecture = 'LlamaForCausalLM', seed = 1, dtype = 'F32', numShards = 1, scale = 0.25 } = options;
  const hiddenSize = options.hiddenSize ?? 32;
  const heads = options.numAttentionHeads ?? 4;
  const keyValueHeads = options.numKeyValueHeads ?? 2;
  const headDim = options.headDim ?? 8;
  const inner = options.intermediateSize ?? 48;
  const numLayers = options.numLayers ?? 2;
  const vocabSize = options.vocabSize ?? 97;
  const tied = options.tieWordEmbeddings ?? false;
  const config: Record<string, unknown> = {
    architectures: [architecture],
    model_type: MODEL_TYPES[architecture],
    hidden_act: 'silu',
    hidden_size: hiddenSize,
    intermediate_size: inner,
    num_hidden_layers: numLayers,
    num_attention_heads: heads,
    num_key_value_heads: keyValueHeads,
    head_dim: headDim,
    vocab_size: vocabSize,
    max_position_embeddings: options.maxPositionEmbeddings ?? 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: tied,
    eos_token_id: options.eosTokenId === undefined ? 2 : options.eosTokenId,
    torch_dtype: { F32: 'float32', F16: 'float16', BF16: 'bfloat16' }[dtype],
    ...(architecture === 'MistralForCausalLM' ? { sliding_window: null } : {}),
    ...options.config,
  };

  const random = randomNumbers(seed);
  const tensors: NamedTensor[] = [];
  const add = (name: string, shape: number[], around = 0, spread = scale) => {
    const count = shape.reduce((product, size) => product * size, 1);
    const values = Float32Array.from({ length: count }, () => around + (random() * 2 - 1) * spread);
    tensors.push({ name, dtype, shape, bytes: encodeFloats(values, dtype) });
  };
  const attentionBias = architecture === 'Qwen2ForCausalLM' || config.attention_bias === true;
  add('model.embed_tokens.weight', [vocabSize, hiddenSize], 0, 1);
  for (let layer = 0; layer < numLayers; layer += 1) {
    const prefix = `model.layers.${layer}`;
    add(`${prefix}.input_layernorm.weight`, [hiddenSize], 1, 0.2);
    for (const [name, outputs] of [
      ['q', heads * headDim],
      ['k', keyValueHeads * headDim],
      ['v', keyValueHeads * headDim],
    ] as const) {
      add(`${prefix}.self_attn.${name}_proj.weight`, [outputs, hiddenSize]);
      if (attentionBias) add(`${prefix}.self_attn.${name}_proj.bias`, [outputs]);
    }
    add(`${prefix}.self_attn.o_proj.weight`, [hiddenSize, heads * headDim]);
    if (attentionBias && architecture !== 'Qwen2ForCausalLM')
      add(`${prefix}.self_attn.o_proj.bias`, [hiddenSize]);
    if (architecture === 'Qwen3ForCausalLM') {
      add(`${prefix}.self_attn.q_norm.weight`, [headDim], 1, 0.2);
      add(`${prefix}.self_attn.k_norm.weight`, [headDim], 1, 0.2);
    }
    add(`${prefix}.post_attention_layernorm.weight`, [hiddenSize], 1, 0.2);
    for (const [name, shape] of [
      ['gate', [inner, hiddenSize]],
      ['up', [inner, hiddenSize]],
      ['down', [hiddenSize, inner]],
    ] as const) {
      add(`${prefix}.mlp.${name}_proj.weight`, [...shape]);
      if (config.mlp_bias === true) add(`${prefix}.mlp.${name}_proj.bias`, [shape[0]]);
    }
  }
  add('model.norm.weight', [hiddenSize], 1, 0.2);
  if (!tied) add('lm_head.weight', [vocabSize, hiddenSize]);

  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'config.json'), `${JSON.stringify(config, null, 2)}\n`);
  writeWeights(directory, tensors, numShards);
  return { directory, vocabSize, tensors };
}

function writeWeights(directory: string, tensors: readonly NamedTensor[], numShards: number): void {
  if (numShards === 1) {
    writeFileSync(join(directory, 'model.safetensors'), safetensorsBytes(tensors));
    return;
  }
  const weightMap: Record<string, string> = {};
  for (let shard = 0; shard < numShards; shard += 1) {
    const own = tensors.filter((_, i) => i % numShards === shard);
    const name = `model-${String(shard + 1).padStart(5, '0')}-of-${String(numShards).padStart(5, '0')}.safetensors`;
    for (const tensor of own) weightMap[tensor.name] = name;
    writeFileSync(join(directory, name), safetensorsBytes(own));
  }
  writeFileSync(
    join(directory, 'model.safetensors.index.json'),
    JSON.stringify({ metadata: {}, weight_map: weightMap }),
  );
}

/** The bytes of a safetensors file. */
export function safetensorsBytes(tensors: readonly NamedTensor[]): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: { format: 'pt' } };
  let end = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = { dtype, shape, data_offsets: [end, end + bytes.length] };
    end += bytes.length;
  }
  return safetensorsOf(JSON.stringify(header), Buffer.concat(tensors.map(({ bytes }) => bytes)));
}

/** A header's text, padded to a multiple of 8, before the data. */
export function safetensorsOf(headerText: string, data: Uint8Array): Uint8Array {
  const text = Buffer.from(headerText);
  const header = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, ' ')]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, data]);
}

export function encodeFloats(values: Float32Array, dtype: 'F32' | 'F16' | 'BF16'): Uint8Array {
  if (dtype === 'F32') return new Uint8Array(values.buffer.slice(0));
  const halves = Uint16Array.from(values, dtype === 'BF16' ? bfloat16Bits : float16Bits);
  return new Uint8Array(halves.buffer);
}

const view = new DataView(new ArrayBuffer(4));

function bfloat16Bits(value: number): number {
  view.setFloat32(0, value);
  const bits = view.getUint32(0);
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** Of normal numbers and zero, truncated: enough for random weights. */
function float16Bits(value: number): number {
  view.setFloat32(0, value);
  const bits = view.getUint32(0);
  const exponent = ((bits >>> 23) & 0xff) - 112;
  const sign = (bits >>> 16) & 0x8000;
  return exponent <= 0 ? sign : sign | (exponent << 10) | ((bits >>> 13) & 0x3ff);
}

/** Uniform in [0, 1), a function of the seed alone. */
export function randomNumbers(seed: number): () => number {
  let state = BigInt.asUintN(64, BigInt(seed) * 0x9e3779b97f4a7c15n);
  return () => {
    state = BigInt.asUintN(64, state + 0x9e3779b97f4a7c15n);
    let mixed = BigInt.asUintN(64, (state ^ (state >> 30n)) * 0xbf58476d1ce4e5b9n);
    mixed = BigInt.asUintN(64, (mixed ^ (mixed >> 27n)) * 0x94d049bb133111ebn);
    return Number((mixed ^ (mixed >> 31n)) >> 40n) / 2 ** 24;
  };
}
