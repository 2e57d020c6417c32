// config.json of LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM. Fields that are absent have
// the defaults of transformers' configuration classes. A field that could change the mathematics is either understood or
// refused by name; those that can't are listed below.

import { KadenzError } from '../errors.js';
import { ConfigFields } from './config_fields.js';
import type { JsonObject } from './json_file.js';
import { ARCHITECTURES, type Architecture, type ModelConfig } from './model_config.js';
import { readRopeConfig } from './rope_config.js';

/** Training, bookkeeping, generation defaults, and how other programs run the model. */
const HARMLESS_FIELDS = [
  ...['_name_or_path', '_attn_implementation', '_attn_implementation_autoset', 'attn_implementation'],
  ...[
    'architectures',
    'model_type',
    'transformers_version',
    'torch_dtype',
    'dtype',
    'use_cache',
    'is_llama_config',
  ],
  ...[
    'bos_token_id',
    'eos_token_id',
    'pad_token_id',
    'unk_token_id',
    'sep_token_id',
    'decoder_start_token_id',
  ],
  ...[
    'initializer_range',
    'attention_dropout',
    'hidden_dropout',
    'resid_pdrop',
    'embd_pdrop',
    'classifier_dropout',
  ],
  ...[
    'id2label',
    'label2id',
    'num_labels',
    'problem_type',
    'finetuning_task',
    'task_specific_params',
    'summary_type',
  ],
  ...[
    'return_dict',
    'output_attentions',
    'output_hidden_states',
    'chunk_size_feed_forward',
    'gradient_checkpointing',
  ],
  ...[
    'do_sample',
    'temperature',
    'top_p',
    'top_k',
    'max_length',
    'min_length',
    'max_new_tokens',
    'num_beams',
  ],
  ...[
    'repetition_penalty',
    'length_penalty',
    'no_repeat_ngram_size',
    'early_stopping',
    'bad_words_ids',
    'prefix',
  ],
  ...['tokenizer_class', 'vocab_file', 'transformers.js_config', 'unsloth_fixed', 'unsloth_version'],
];

const MODEL_TYPES: Record<Architecture, string> = {
  LlamaForCausalLM: 'llama',
  MistralForCausalLM: 'mistral',
  Qwen2ForCausalLM: 'qwen2',
  Qwen3ForCausalLM: 'qwen3',
};

const MAX_POSITIONS_DEFAULT: Record<Architecture, number> = {
  LlamaForCausalLM: 2048,
  MistralForCausalLM: 131_072,
  Qwen2ForCausalLM: 32_768,
  Qwen3ForCausalLM: 32_768,
};

export function readModelConfig(json: JsonObject, path: string): ModelConfig {
  const architecture = readArchitecture(json, path);
  const fields = new ConfigFields(json, path);
  fields.ignore(HARMLESS_FIELDS);
  fields.only('model_type', [MODEL_TYPES[architecture]]);
  fields.only('hidden_act', ['silu', 'swish']);
  fields.only('pretraining_tp', [1]);
  fields.only('is_encoder_decoder', [false]);
  fields.only('add_cross_attention', [false]);
  fields.only('rope_interleaved', [false]);
  fields.only('use_mrope', [false]);

  const hiddenSize = fields.integer('hidden_size', { least: 1, most: 2 ** 20 });
  const numLayers = fields.integer('num_hidden_layers', { least: 1, most: 2 ** 12 });
  const numAttentionHeads = fields.integer('num_attention_heads', { least: 1, most: 2 ** 14 });
  const maxPositionEmbeddings = fields.integer('max_position_embeddings', {
    least: 1,
    most: 2 ** 24,
    otherwise: MAX_POSITIONS_DEFAULT[architecture],
  });
  const config: ModelConfig = {
    architecture,
    hiddenSize,
    intermediateSize: fields.integer('intermediate_size', { least: 1, most: 2 ** 22 }),
    numLayers,
    numAttentionHeads,
    numKeyValueHeads: readKeyValueHeads(fields, architecture, numAttentionHeads),
    headDim: readHeadDim(fields, architecture, hiddenSize, numAttentionHeads),
    vocabSize: fields.integer('vocab_size', { least: 1, most: 2 ** 27 }),
    maxPositionEmbeddings,
    rmsNormEps: fields.number('rms_norm_eps', { over: 0, otherwise: 1e-6 }),
    rope: readRopeConfig(fields, maxPositionEmbeddings),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    ...readBiases(fields, architecture),
    ...readSlidingWindow(fields, architecture, numLayers),
  };
  fields.refuseTheRest();
  return config;
}

function readArchitecture(json: JsonObject, path: string): Architecture {
  const named = json.architectures;
  const [name] = Array.isArray(named) && named.length === 1 ? named : [undefined];
  const known = ARCHITECTURES.find((architecture) => architecture === name);
  if (known !== undefined) return known;
  throw new KadenzError(
    'unsupported_architecture',
    `${path}: architectures is ${JSON.stringify(named) ?? 'absent'}; Kadenz runs ${ARCHITECTURES.join(', ')}.`,
    { value: named },
  );
}

/** Absent and null differ: the class has a default of its own, null means one for each attention head. */
function readKeyValueHeads(
  fields: ConfigFields,
  architecture: Architecture,
  numAttentionHeads: number,
): number {
  const classDefaults: Partial<Record<Architecture, number>> = {
    MistralForCausalLM: 8,
    Qwen2ForCausalLM: 32,
    Qwen3ForCausalLM: 32,
  };
  const otherwise = fields.isNull('num_key_value_heads')
    ? numAttentionHeads
    : (classDefaults[architecture] ?? numAttentionHeads);
  const heads = fields.integer('num_key_value_heads', { least: 1, most: 2 ** 14, otherwise });
  if (numAttentionHeads % heads !== 0) {
    fields.invalid('num_key_value_heads', heads, `a divisor of num_attention_heads, ${numAttentionHeads}`);
  }
  return heads;
}

function readHeadDim(
  fields: ConfigFields,
  architecture: Architecture,
  hiddenSize: number,
  heads: number,
): number {
  const whole = hiddenSize % heads === 0;
  const derived = architecture === 'Qwen3ForCausalLM' ? 128 : hiddenSize / heads;
  if (fields.value('head_dim') === undefined && architecture !== 'Qwen3ForCausalLM' && !whole) {
    fields.invalid(
      'hidden_size',
      hiddenSize,
      `a multiple of num_attention_heads, ${heads}, where head_dim is absent`,
    );
  }
  const headDim = fields.integer('head_dim', { least: 2, most: 2 ** 12, otherwise: derived });
  if (headDim % 2 !== 0) fields.invalid('head_dim', headDim, 'even');
  return headDim;
}

type Biases = Pick<ModelConfig, 'attentionBias' | 'attentionOutputBias' | 'mlpBias' | 'qkNorm'>;

function readBiases(fields: ConfigFields, architecture: Architecture): Biases {
  const none = { attentionBias: false, attentionOutputBias: false, mlpBias: false, qkNorm: false };
  if (architecture === 'LlamaForCausalLM') {
    const bias = fields.boolean('attention_bias', false);
    return {
      ...none,
      attentionBias: bias,
      attentionOutputBias: bias,
      mlpBias: fields.boolean('mlp_bias', false),
    };
  }
  if (architecture === 'Qwen3ForCausalLM') {
    const bias = fields.boolean('attention_bias', false);
    return { ...none, attentionBias: bias, attentionOutputBias: bias, qkNorm: true };
  }
  return { ...none, attentionBias: architecture === 'Qwen2ForCausalLM' };
}

type SlidingWindow = Pick<ModelConfig, 'slidingWindow' | 'layerUsesSlidingWindow'>;

function readSlidingWindow(
  fields: ConfigFields,
  architecture: Architecture,
  numLayers: number,
): SlidingWindow {
  const layers = Array.from({ length: numLayers }, (_, layer) => layer);
  let slidingWindow = 0;
  let implied = layers.map(() => false);
  if (architecture === 'MistralForCausalLM') {
    slidingWindow = readWindow(fields);
    implied = layers.map(() => slidingWindow > 0);
  } else if (architecture !== 'LlamaForCausalLM') {
    const enabled = fields.boolean('use_sliding_window', false);
    const window = readWindow(fields);
    const firstLayer = fields.integer('max_window_layers', { least: 0, most: 2 ** 31, otherwise: 28 });
    slidingWindow = enabled ? window : 0;
    implied = layers.map((layer) => slidingWindow > 0 && layer >= firstLayer);
  }
  const types = fields.value('layer_types');
  if (types === undefined) return { slidingWindow, layerUsesSlidingWindow: implied };
  const said = readLayerTypes(fields, types, numLayers);
  const free = architecture === 'Qwen2ForCausalLM' || architecture === 'Qwen3ForCausalLM';
  const contradicts = free
    ? slidingWindow === 0 && said.includes(true)
    : said.some((uses, layer) => uses !== implied[layer]);
  if (contradicts)
    fields.unsupported(
      'layer_types',
      types,
      'this does not fit the sliding window that config.json describes',
    );
  return { slidingWindow, layerUsesSlidingWindow: said };
}

/** Absent: 4,096, as the classes have it. null: none. */
function readWindow(fields: ConfigFields): number {
  if (fields.isNull('sliding_window')) return 0;
  return fields.integer('sliding_window', { least: 1, most: 2 ** 31, otherwise: 4096 });
}

function readLayerTypes(fields: ConfigFields, types: unknown, numLayers: number): boolean[] {
  const known = ['full_attention', 'sliding_attention'];
  if (!Array.isArray(types) || types.length !== numLayers) {
    return fields.invalid('layer_types', types, `a list with one entry for each of the ${numLayers} layers`);
  }
  for (const type of types) {
    if (!known.includes(type))
      fields.unsupported('layer_types', type, `Kadenz supports ${known.join(' and ')}`);
  }
  return types.map((type) => type === 'sliding_attention');
}
