// What a kernel of a step is for, by its name and its neighbours, and how many bytes and floating-point operations all calls of a step with
// that role come to. For bench/gpu/kernel_times.mjs.
import { modelNumbers } from './roofline.mjs';

/** From a mangled name: the function, and its template's numbers. */
export function shortName(name) {
  let at = name.startsWith('_ZN') ? 3 : name.startsWith('_Z') ? 2 : -1;
  if (at < 0) return name.slice(0, 60);
  let last = name;
  for (;;) {
    const digits = /^\d+/.exec(name.slice(at))?.[0];
    if (digits === undefined) break;
    at += digits.length + Number(digits);
    last = name.slice(at - Number(digits), at);
  }
  const numbers = [...name.slice(at).matchAll(/L[ijb](\d+)E/g)].map(([, value]) => value);
  return numbers.length > 0 ? `${last}<${numbers.join(',')}>` : last;
}

const NAMED = [
  [/^(split|block)_kernel/, 'attention'],
  [/^rotate/, 'rotate, KV write'],
  [/^add_norm/, 'add, norm'],
  [/^silu/, 'silu'],
  [/^plain_(tiles|fold)|^general|^edit|^filter/, 'sampling'],
];
const MATMUL = /^(gemm_kernel|nvjet|cutlass|sm\d+_xmma|plain_matmul|ampere|hopper)/;

const isMatmul = ({ name }) => MATMUL.test(name);
const named = ({ name }) => NAMED.find(([pattern]) => pattern.test(name))?.[1];

/** Of step[index]. Matmuls are told by what comes before and behind them. */
export function roleOf(step, index) {
  if (!isMatmul(step[index])) return named(step[index]) ?? 'inputs, embedding, others';
  const counts = (record) => isMatmul(record) || named(record) !== undefined;
  const before = step.slice(0, index).findLast(counts);
  const behind = step.slice(index + 1).find(counts);
  if (behind !== undefined && named(behind) === 'rotate, KV write') return 'qkv';
  if (behind !== undefined && named(behind) === 'sampling') return 'LM head';
  if (before === undefined) return 'qkv';
  if (named(before) === 'attention') return 'o';
  if (named(before) === 'add, norm') return 'gate_up';
  if (named(before) === 'silu') return 'down';
  // A matmul behind a matmul: of the same one's next slice, or down.
  const role = roleOf(step, step.lastIndexOf(before, index - 1));
  return role === 'o' ? 'o' : 'down';
}

/** By role: bytes that must pass and operations that must be done in a step of `rows` rows. */
export function workOf(config, { rows, context, prompt }) {
  const { hidden_size: hidden, intermediate_size: inner, num_hidden_layers: layers } = config;
  const { num_attention_heads: heads, num_key_value_heads: keyValueHeads, vocab_size: vocabulary } = config;
  const headDim = config.head_dim ?? hidden / heads;
  const matmul = (outputs, inputs, times = layers) => ({
    bytes: times * 2 * outputs * inputs,
    flops: times * 2 * rows * outputs * inputs,
  });
  const { kvBytesAToken, attentionWidth } = modelNumbers(config);
  const outputs = prompt > 0 ? rows / prompt : rows;
  const pairs = prompt > 0 ? (rows * prompt) / 2 : rows * context;
  return {
    qkv: matmul((heads + 2 * keyValueHeads) * headDim, hidden),
    o: matmul(hidden, heads * headDim),
    gate_up: matmul(2 * inner, hidden),
    down: matmul(hidden, inner),
    'LM head': { ...matmul(vocabulary, hidden, 1), flops: 2 * outputs * vocabulary * hidden },
    attention: {
      bytes: (prompt > 0 ? rows : rows * context) * kvBytesAToken,
      flops: 4 * attentionWidth * pairs,
    },
  };
}
