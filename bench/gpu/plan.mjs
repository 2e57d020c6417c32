// What bench:gpu runs: each workload's model, engine, requests, and what it has to come to.
//
// Workloads with the same model and engine options share one engine. `measure`: 'wall' is output tokens per second of the whole workload;
// 'decode' the time of one decode step, by difference with the same prompts and one token; 'prefill' the prompts alone; 'price' the workload
// on two engines in turn, one of them with cuBLASLt unrestricted. A `peer` that is not run here was measured elsewhere: `source` says so.

const PLAIN = { maxNumSeqs: 256, maxModelLen: 4096, enablePrefixCaching: false };
/** Prefix caching spares the second prefill of decode measurements; it is emptied between workloads. */
const CACHING = { maxNumSeqs: 512, maxModelLen: 16_384, enablePrefixCaching: true };
const GRPO = { prompts: 32, n: 16, promptTokens: 512, median: 800, sigma: 0.8, most: 4096 };
/** 256 sequences of 384 tokens, in each of two engines that share the GPU. */
const PRICE = { maxNumSeqs: 256, maxModelLen: 1024, enablePrefixCaching: false, kvCacheBlocks: 6_400 };

const SGLANG = {
  name: 'SGLang, FlashInfer',
  tokensPerSecond: 8_497,
  seconds: 30.85,
  source: 'its post on deterministic inference, 2025-09, on this type of GPU; with determinism 43.99 s',
};
const TRANSFORMERS = {
  name: 'transformers, compiled decode loop',
  tokensPerSecond: 20_081,
  source: 'measured 2026-11-21 on this type of GPU; --peers measures it in the same run',
};

const decode = (sequences) => ({
  name: `7b-${sequences}`,
  model: 'qwen2.5-7b',
  title: `7B decode, B = ${sequences}, context 1.5k`,
  measure: 'decode',
  engine: CACHING,
  requests: { kind: 'fixed', requests: sequences, promptTokens: 1408, outputTokens: 256 },
  leastShare: 0.7,
});

export const WORKLOADS = [
  {
    name: '1.5b',
    model: 'qwen2.5-1.5b',
    title: '1.5B, 256 x (128 in, 256 out)',
    measure: 'wall',
    engine: PLAIN,
    requests: { kind: 'fixed', requests: 256, promptTokens: 128, outputTokens: 256 },
    repeat: 3,
    prefill: true,
    leastShare: 0.6,
    peer: TRANSFORMERS,
    leastRatio: 6,
  },
  {
    name: '1.5b-grpo',
    model: 'qwen2.5-1.5b',
    title: '1.5B, GRPO 32 x 16, prompt 512, to 4k',
    measure: 'wall',
    engine: CACHING,
    requests: { kind: 'log-normal', ...GRPO },
  },
  {
    name: '1.5b-price',
    model: 'qwen2.5-1.5b',
    title: '1.5B, 256 x (128 in, 256 out)',
    measure: 'price',
    engine: PRICE,
    requests: { kind: 'fixed', requests: 256, promptTokens: 128, outputTokens: 256 },
    repeat: 5,
    mostPrice: 0.02,
  },
  decode(1),
  decode(8),
  decode(64),
  decode(256),
  {
    name: '7b-tail',
    model: 'qwen2.5-7b',
    title: '7B long tail, B = 8, context 16k',
    measure: 'decode',
    engine: CACHING,
    requests: { kind: 'fixed', requests: 8, promptTokens: 16_000, outputTokens: 128 },
  },
  {
    name: '7b-grpo',
    model: 'qwen2.5-7b',
    title: '7B, GRPO 32 x 16, prompt 512, to 4k',
    measure: 'wall',
    engine: CACHING,
    requests: { kind: 'log-normal', ...GRPO },
  },
  {
    name: '7b-price',
    model: 'qwen2.5-7b',
    title: '7B, 256 x (128 in, 256 out)',
    measure: 'price',
    engine: PRICE,
    requests: { kind: 'fixed', requests: 256, promptTokens: 128, outputTokens: 256 },
    repeat: 3,
    mostPrice: 0.02,
  },
  {
    name: '8b-prefill',
    model: 'qwen3-8b',
    title: '8B prefill, 8 x 4,096 tokens',
    measure: 'prefill',
    engine: { ...PLAIN, maxModelLen: 4104 },
    requests: { kind: 'fixed', requests: 8, promptTokens: 4096, outputTokens: 1 },
    repeat: 3,
    leastFlopsPerSecond: 400e12,
  },
  {
    name: '8b',
    model: 'qwen3-8b',
    title: '8B, 256 x (1,024 in, 1,024 out)',
    measure: 'wall',
    engine: { ...PLAIN, maxModelLen: 4104 },
    requests: { kind: 'fixed', requests: 256, promptTokens: 1024, outputTokens: 1024 },
    peer: SGLANG,
    leastRatio: 1,
  },
];

/** Workloads of one model and equal engine options, in their order. */
export function engineRuns(workloads) {
  const runs = new Map();
  for (const workload of workloads) {
    const key = JSON.stringify([workload.model, workload.engine, workload.measure === 'price']);
    if (!runs.has(key)) runs.set(key, []);
    runs.get(key).push(workload);
  }
  return [...runs.values()];
}
