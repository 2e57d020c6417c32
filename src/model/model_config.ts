// What a model is, as plain numbers: config.json resolved, with no default left to be filled in further down. The native
// side reads exactly these fields (native/addon/options.cc) and checks each one's range again.

export const ARCHITECTURES = [
  'LlamaForCausalLM',
  'MistralForCausalLM',
  'Qwen2ForCausalLM',
  'Qwen3ForCausalLM',
] as const;
export type Architecture = (typeof ARCHITECTURES)[number];

export interface RopeConfig {
  kind: 'default' | 'linear' | 'llama3' | 'yarn';
  theta: number;
  /** linear, llama3, yarn; 1 else. */
  factor: number;
  /** llama3 */
  lowFreqFactor: number;
  highFreqFactor: number;
  /** llama3, yarn; 0 else. */
  originalMaxPositionEmbeddings: number;
  /** yarn */
  betaFast: number;
  betaSlow: number;
  /** Multiplies cosine and sine; 1 but for yarn. */
  attentionFactor: number;
  /** yarn: the correction range is rounded to whole dimensions. */
  truncate: boolean;
}

export interface ModelConfig {
  architecture: Architecture;
  hiddenSize: number;
  intermediateSize: number;
  numLayers: number;
  numAttentionHeads: number;
  numKeyValueHeads: number;
  headDim: number;
  vocabSize: number;
  maxPositionEmbeddings: number;
  rmsNormEps: number;
  rope: RopeConfig;
  /** q, k and v have a bias. */
  attentionBias: boolean;
  /** So has o. */
  attentionOutputBias: boolean;
  mlpBias: boolean;
  /** RMSNorm over headDim on q and k. */
  qkNorm: boolean;
  tieWordEmbeddings: boolean;
  /** 0 = none. Key j is visible to query i when i - j < slidingWindow. */
  slidingWindow: number;
  /** One per layer. */
  layerUsesSlidingWindow: boolean[];
}
