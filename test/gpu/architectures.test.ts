// Every architecture of the CPU host runs on the GPU, in both 16-bit dtypes: log-probs of given tokens are the CPU's in float32 but for
// the rounding, and what is sampled is what is scored.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Engine } from '../../dist/index.js';
import { type TinyModelOptions, writeTinyModel } from '../support/tiny_model.js';

const LLAMA3_ROPE = {
  rope_type: 'llama3',
  factor: 8,
  low_freq_factor: 1,
  high_freq_factor: 4,
  original_max_position_embeddings: 64,
};

const models: [string, TinyModelOptions][] = [
  ['llama 2', { architecture: 'LlamaForCausalLM', numKeyValueHeads: 4 }],
  ['llama 3', { architecture: 'LlamaForCausalLM', headDim: 64, config: { rope_scaling: LLAMA3_ROPE } }],
  [
    'llama, tied, of odd sizes',
    { architecture: 'LlamaForCausalLM', tieWordEmbeddings: true, hiddenSize: 40, headDim: 6 },
  ],
  [
    'llama with every bias',
    { architecture: 'LlamaForCausalLM', config: { attention_bias: true, mlp_bias: true } },
  ],
  ['mistral with a window', { architecture: 'MistralForCausalLM', config: { sliding_window: 37 } }],
  ['qwen 2', { architecture: 'Qwen2ForCausalLM', headDim: 32, numAttentionHeads: 14 }],
  ['qwen 3', { architecture: 'Qwen3ForCausalLM', headDim: 128, vocabSize: 1000 }],
  [
    'qwen 3 with 20 heads a key-value head',
    { architecture: 'Qwen3ForCausalLM', numAttentionHeads: 20, numKeyValueHeads: 1 },
  ],
];

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'kadenz-gpu-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const sequences = Array.from({ length: 9 }, (_, index) =>
  Array.from({ length: 5 + index * 37 }, (_, k) => (k * 31 + index * 17 + ((k * k) % 13)) % 90),
);

describe.each(models)('%s', (name, options) => {
  it.each(['bfloat16', 'float16'] as const)(
    'computes in %s what the CPU computes in float32',
    async (dtype) => {
      const model = join(folder, `${name}-${dtype}`);
      writeTinyModel(model, {
        dtype: dtype === 'float16' ? 'F16' : 'BF16',
        maxPositionEmbeddings: 512,
        seed: 8,
        ...options,
      });
      const common = { model, maxNumSeqs: 16, maxModelLen: 512, kvCacheBlocks: 600 };
      const [cpu, gpu] = await Promise.all([
        Engine.create({ ...common, dtype: 'float32' }),
        Engine.create({ ...common, device: 'cuda', dtype }),
      ]);
      const [expected, scored] = await Promise.all([cpu.score(sequences), gpu.score(sequences)]);
      const differences = expected.flatMap((row, i) =>
        Array.from(row, (value, k) => Math.abs(value - scored[i]![k]!)).slice(1),
      );
      const mean = differences.reduce((sum, value) => sum + value, 0) / differences.length;
      const [mostMean, most] = dtype === 'float16' ? [0.004, 0.05] : [0.03, 0.4];
      expect(differences.length).toBeGreaterThan(1000);
      expect(mean).toBeLessThan(mostMean);
      expect(Math.max(...differences)).toBeLessThan(most);

      const [result] = await gpu.generate([
        { promptTokenIds: sequences[4]!, n: 3, maxTokens: 20, ignoreEos: true, seed: 11 },
      ]);
      for (const { tokenIds, logprobs } of result!.samples) {
        const again = (await gpu.score([[...sequences[4]!, ...tokenIds]]))[0]!;
        expect(again.slice(-tokenIds.length)).toEqual(logprobs);
      }
      await Promise.all([cpu.close(), gpu.close()]);
    },
  );
});
