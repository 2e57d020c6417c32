// The tensors that a model's configuration calls for, held against those that its files have.
//
// All must be there with their shapes and a dtype that Kadenz reads. Others are refused, because a model that would leave
// weights unused is not the model that its config.json describes; but for two that are known to do no harm:
// rotary_emb.inv_freq, which older checkpoints carry and everybody computes anew, and lm_head.weight of a model whose word
// embeddings are tied, which transformers passes over as well.

import { KadenzError } from '../errors.js';
import type { ModelConfig } from './model_config.js';
import type { SafetensorsFile, StoredTensor } from './safetensors.js';

export const WEIGHT_DTYPES = ['F32', 'F16', 'BF16'] as const;
export type WeightDtype = (typeof WEIGHT_DTYPES)[number];

export interface TensorDescription {
  name: string;
  dtype: WeightDtype;
  shape: number[];
  /** Index into the model's files. */
  file: number;
  /** From the start of the file. */
  beginBytes: number;
  endBytes: number;
}

const NAMES_SHOWN = 5;

/** Name and shape of each tensor, in the model's order. */
export function expectedTensors(config: ModelConfig): Map<string, number[]> {
  const { hiddenSize, intermediateSize, headDim, vocabSize } = config;
  const queries = config.numAttentionHeads * headDim;
  const keys = config.numKeyValueHeads * headDim;
  const expected = new Map<string, number[]>([['model.embed_tokens.weight', [vocabSize, hiddenSize]]]);
  const linear = (name: string, outputs: number, inputs: number, bias: boolean) => {
    expected.set(`${name}.weight`, [outputs, inputs]);
    if (bias) expected.set(`${name}.bias`, [outputs]);
  };
  for (let layer = 0; layer < config.numLayers; layer += 1) {
    const prefix = `model.layers.${layer}`;
    expected.set(`${prefix}.input_layernorm.weight`, [hiddenSize]);
    linear(`${prefix}.self_attn.q_proj`, queries, hiddenSize, config.attentionBias);
    linear(`${prefix}.self_attn.k_proj`, keys, hiddenSize, config.attentionBias);
    linear(`${prefix}.self_attn.v_proj`, keys, hiddenSize, config.attentionBias);
    linear(`${prefix}.self_attn.o_proj`, hiddenSize, queries, config.attentionOutputBias);
    if (config.qkNorm) {
      expected.set(`${prefix}.self_attn.q_norm.weight`, [headDim]);
      expected.set(`${prefix}.self_attn.k_norm.weight`, [headDim]);
    }
    expected.set(`${prefix}.post_attention_layernorm.weight`, [hiddenSize]);
    linear(`${prefix}.mlp.gate_proj`, intermediateSize, hiddenSize, config.mlpBias);
    linear(`${prefix}.mlp.up_proj`, intermediateSize, hiddenSize, config.mlpBias);
    linear(`${prefix}.mlp.down_proj`, hiddenSize, intermediateSize, config.mlpBias);
  }
  expected.set('model.norm.weight', [hiddenSize]);
  if (!config.tieWordEmbeddings) expected.set('lm_head.weight', [vocabSize, hiddenSize]);
  return expected;
}

export function chooseTensors(
  config: ModelConfig,
  files: readonly SafetensorsFile[],
  directory: string,
): TensorDescription[] {
  const stored = new Map<string, StoredTensor & { file: number }>();
  for (const [file, { tensors }] of files.entries()) {
    for (const tensor of tensors) stored.set(tensor.name, { ...tensor, file });
  }
  const expected = expectedTensors(config);
  const missing = [...expected.keys()].filter((name) => !stored.has(name));
  if (missing.length > 0) {
    throw new KadenzError('missing_tensor', `The weights in ${directory} lack ${listNames(missing)}.`, {
      path: directory,
      tensors: missing,
    });
  }
  const unexpected = [...stored.keys()].filter((name) => !expected.has(name) && !isHarmless(name, config));
  if (unexpected.length > 0) {
    throw new KadenzError(
      'unexpected_tensor',
      `The weights in ${directory} hold ${listNames(unexpected)}, for which config.json has no place: ` +
        'it does not describe this model.',
      { path: directory, tensors: unexpected },
    );
  }
  return [...expected].map(([name, shape]) => describe(stored.get(name)!, shape, directory));
}

function describe(
  tensor: StoredTensor & { file: number },
  shape: number[],
  directory: string,
): TensorDescription {
  const { name, file, beginBytes, endBytes } = tensor;
  const dtype = WEIGHT_DTYPES.find((known) => known === tensor.dtype);
  if (dtype === undefined) {
    const sentence = `Tensor ${name} in ${directory} has dtype ${tensor.dtype}; Kadenz reads ${WEIGHT_DTYPES.join(', ')}.`;
    throw new KadenzError('unsupported_dtype', sentence, { tensor: name, value: tensor.dtype });
  }
  if (tensor.shape.length !== shape.length || tensor.shape.some((size, i) => size !== shape[i])) {
    throw new KadenzError(
      'wrong_shape',
      `Tensor ${name} in ${directory} has shape [${tensor.shape.join(', ')}]; config.json calls for [${shape.join(', ')}].`,
      { tensor: name, value: tensor.shape, limit: shape },
    );
  }
  return { name, dtype, shape, file, beginBytes, endBytes };
}

function isHarmless(name: string, config: ModelConfig): boolean {
  if (name === 'lm_head.weight') return config.tieWordEmbeddings;
  return /^model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq$/.test(name);
}

function listNames(names: readonly string[]): string {
  const shown = names.slice(0, NAMES_SHOWN).join(', ');
  return names.length <= NAMES_SHOWN ? shown : `${shown} and ${names.length - NAMES_SHOWN} more`;
}
