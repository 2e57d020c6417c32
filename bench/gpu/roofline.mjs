// The least that a workload can take on one GPU, from its bytes and its floating-point operations: what bench:gpu holds times against.
//
//   a decode step >= max((W + sum_i L_i * kv) / BW, 2 * P * B / F) + kernels * gap
//   a prefill     >= (2 * P_layers * tokens + 2 * layers * heads * head_dim * sum_i (L_i^2 - C_i^2) + 2 * P_head * sequences) / F
//
// W bytes of the matrices that a step reads (an untied input embedding is not one of them), kv bytes that a token has in the KV cache, L_i
// tokens of sequence i, C_i those of them that the prefix cache had, P parameters in those matrices, B sequences. A workload's floor is its
// prefills' and then its decode steps', with as many sequences at once as the engine may run, in the order of the requests.

/** Measured on an H200: device-to-device copy, bf16 matmul of cuBLASLt, empty kernels in a CUDA graph. */
export const H200 = { bytesPerSecond: 4.3e12, flopsPerSecond: 0.75e15, secondsAKernel: 0.6e-6 };

const BYTES_A_NUMBER = 2;

/** Launches of one layer in a decode step: qkv, rotate, attention, o, add and norm, gate-up with its activation, down, add and norm. */
const KERNELS_A_LAYER = 8;
/** Beside the layers: rows' inputs, embedding, norm, head and two of sampling. */
const KERNELS_A_STEP = 6;

/** `config`: a config.json. */
export function modelNumbers(config) {
  const { hidden_size: hidden, intermediate_size: inner, num_hidden_layers: layers } = config;
  const { num_attention_heads: heads, num_key_value_heads: keyValueHeads, vocab_size: vocabulary } = config;
  const headDim = config.head_dim ?? hidden / heads;
  const attention = hidden * headDim * (2 * heads + 2 * keyValueHeads);
  const layerParameters = layers * (attention + 3 * hidden * inner);
  const headParameters = vocabulary * hidden;
  return {
    layerParameters,
    headParameters,
    parameters: layerParameters + headParameters,
    weightBytes: (layerParameters + headParameters) * BYTES_A_NUMBER,
    kvBytesAToken: 2 * layers * keyValueHeads * headDim * BYTES_A_NUMBER,
    attentionWidth: layers * heads * headDim,
    kernels: KERNELS_A_LAYER * layers + KERNELS_A_STEP,
  };
}

/** Seconds of one decode step of `sequences` with `tokens` of context in all, by what they go to. */
export function decodeStep(model, { sequences, tokens }, gpu = H200) {
  const weights = model.weightBytes / gpu.bytesPerSecond;
  const kv = (tokens * model.kvBytesAToken) / gpu.bytesPerSecond;
  const flops = (2 * model.parameters * sequences) / gpu.flopsPerSecond;
  const launches = model.kernels * gpu.secondsAKernel;
  return weights + kv >= flops ? { weights, kv, launches } : { flops, launches };
}

/** `prompts`: [{ tokens, cachedTokens }]. Each position attends to itself and all before it; both products of attention count. */
export function prefillFlops(model, prompts) {
  let flops = 0;
  for (const { tokens, cachedTokens = 0 } of prompts) {
    flops += 2 * model.layerParameters * (tokens - cachedTokens) + 2 * model.headParameters;
    flops += 2 * model.attentionWidth * (tokens ** 2 - cachedTokens ** 2);
  }
  return flops;
}

/** All prompts first, each once however many requests have it, then the decode steps, `slots` sequences at once. */
export function workloadFloor(model, requests, slots, gpu = H200) {
  const prompts = [...new Set(requests.map(({ promptTokenIds }) => promptTokenIds))];
  const prefill = prefillFlops(
    model,
    prompts.map(({ length }) => ({ tokens: length })),
  );
  const parts = { prefill: prefill / gpu.flopsPerSecond };
  const waiting = requests.map(({ promptTokenIds, maxTokens }) => ({
    tokens: promptTokenIds.length + 1,
    left: maxTokens - 1,
  }));
  let next = 0;
  let running = [];
  for (;;) {
    running = running.filter(({ left }) => left > 0);
    while (running.length < slots && next < waiting.length) {
      if (waiting[next].left > 0) running.push(waiting[next]);
      next += 1;
    }
    if (running.length === 0) break;
    const tokens = running.reduce((sum, sequence) => sum + sequence.tokens, 0);
    add(parts, decodeStep(model, { sequences: running.length, tokens }, gpu));
    for (const sequence of running) {
      sequence.tokens += 1;
      sequence.left -= 1;
    }
  }
  return parts;
}

function add(parts, more) {
  for (const [name, seconds] of Object.entries(more)) parts[name] = (parts[name] ?? 0) + seconds;
}

export function total(parts) {
  return Object.values(parts).reduce((sum, seconds) => sum + seconds, 0);
}

/** The largest part of a floor, in a word. */
export function limitOf(parts) {
  const [name, seconds] = Object.entries(parts).reduce((most, part) => (part[1] > most[1] ? part : most));
  const words = { weights: 'weight bytes', kv: 'KV bytes', flops: 'decode FLOPs', prefill: 'prefill FLOPs' };
  return `${words[name] ?? name} (${Math.round((100 * seconds) / total(parts))} %)`;
}
