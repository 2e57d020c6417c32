// A Hugging Face model directory, judged: what the model is, where its tensors lie, what ends its sequences. Reads JSON
// and headers only; the weights are mapped by the native host. No code from the directory is ever run.

import { createHash } from 'node:crypto';
import { statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { KadenzError } from '../errors.js';
import { readModelConfig } from './config_json.js';
import { type JsonObject, readJsonFile } from './json_file.js';
import type { ModelConfig } from './model_config.js';
import { chooseTensors, type TensorDescription } from './tensor_table.js';
import { readWeightFiles } from './weight_files.js';

/** Plain data: it can be cloned into a worker. */
export interface LoadedModel {
  /** Absolute. */
  directory: string;
  config: ModelConfig;
  /** Exactly those that the model needs, in its order. */
  tensors: TensorDescription[];
  /** Absolute paths. */
  files: string[];
  /** From generation_config.json, else config.json; may be empty. */
  eosTokenIds: number[];
  /**
   * SHA-256 over configuration, tensor table and file sizes, in hexadecimal: cheap, and different for models that differ in
   * shape. It does not read the weights, so it does not tell two checkpoints of one training run apart.
   */
  fingerprint: string;
}

/** Throws KadenzError: model_not_found, unsupported_architecture, unsupported_config, missing_tensor, invalid_safetensors, ... */
export function loadModel(path: string): LoadedModel {
  const directory = resolve(path);
  if (statSync(directory, { throwIfNoEntry: false })?.isDirectory() !== true) {
    throw new KadenzError('model_not_found', `There is no model directory at ${directory}.`, {
      path: directory,
    });
  }
  const configPath = join(directory, 'config.json');
  const json = readJsonFile(configPath, 'invalid_model_config');
  if (json === null)
    throw new KadenzError('model_not_found', `${directory} has no config.json.`, { path: directory });
  const config = readModelConfig(json, configPath);
  const weightFiles = readWeightFiles(directory);
  const tensors = chooseTensors(config, weightFiles, directory);
  const sizes = weightFiles.map(({ sizeBytes }) => sizeBytes);
  return {
    directory,
    config,
    tensors,
    files: weightFiles.map((file) => file.path),
    eosTokenIds: readEosTokenIds(directory, json, config.vocabSize),
    fingerprint: createHash('sha256').update(JSON.stringify({ config, tensors, sizes })).digest('hex'),
  };
}

function readEosTokenIds(directory: string, configJson: JsonObject, vocabSize: number): number[] {
  const generationPath = join(directory, 'generation_config.json');
  const generation = readJsonFile(generationPath, 'invalid_model_config');
  const fromGeneration = generation?.eos_token_id ?? undefined;
  const path = fromGeneration === undefined ? join(directory, 'config.json') : generationPath;
  const value = fromGeneration ?? configJson.eos_token_id ?? [];
  const ids: unknown[] = Array.isArray(value) ? value : [value];
  for (const id of ids) {
    if (typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < vocabSize) continue;
    throw new KadenzError(
      'invalid_model_config',
      `${path}: eos_token_id holds ${JSON.stringify(id)}; token ids of this model are integers from 0 to ${vocabSize - 1}.`,
      { field: 'eos_token_id', value: id, limit: vocabSize - 1 },
    );
  }
  return [...new Set(ids as number[])];
}
