// A model directory, read and checked: config.json, safetensors headers, the table of tensors.

export { modelFingerprint } from './fingerprint.js';
export { type LoadedModel, loadModel } from './load_model.js';
export { ARCHITECTURES, type Architecture, type ModelConfig, type RopeConfig } from './model_config.js';
export { expectedTensors, type TensorDescription, type WeightDtype } from './tensor_table.js';
