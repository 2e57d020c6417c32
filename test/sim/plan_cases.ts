// Plans for tests: a model of Qwen3-8B's shape in a file, and flags around it.

import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { planOptionsOf } from '../../dist/sim/plan/options.js';
import type { PlanCase } from '../../dist/sim/plan/workload.js';

export const QWEN3_8B = {
  architectures: ['Qwen3ForCausalLM'],
  model_type: 'qwen3',
  head_dim: 128,
  hidden_act: 'silu',
  hidden_size: 4096,
  intermediate_size: 12_288,
  max_position_embeddings: 40_960,
  num_attention_heads: 32,
  num_hidden_layers: 36,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-6,
  rope_theta: 1_000_000,
  tie_word_embeddings: false,
  vocab_size: 151_936,
};

let configPath: string | undefined;

export function temporaryFile(name: string, content: string): string {
  const path = join(mkdtempSync(join(tmpdir(), 'kadenz-plan-')), name);
  writeFileSync(path, content);
  return path;
}

/** Flags as the command line would give them. */
export function planFlags(flags: Record<string, unknown> = {}): Record<string, unknown> {
  configPath ??= temporaryFile('config.json', JSON.stringify(QWEN3_8B));
  return { modelConfig: configPath, prompts: '8', lengths: 'fixed:100', ...flags };
}

/** The base case of these flags. */
export function planCase(flags: Record<string, unknown> = {}): PlanCase {
  return planOptionsOf(planFlags(flags)).cases[0]!;
}
