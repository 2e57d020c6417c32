// Log-probs on the GPU are as near to float32 as those of transformers in bfloat16, or nearer: mean and maximum over 64 prompts x 128
// tokens, teacher-forced, of random models in published shapes and of a small one of each architecture, and of SmolLM2 where it lies in
// .cache/smollm2 (`npm run model:smollm2`).
//
// A trained model gets text as prompts. What it makes of random tokens lies on the edge between two states here and there, and any rounding to
// bfloat16 may tip it: transformers' own log-prob of one token then moves by 4.7.
//
// The sequences are what the engine samples; each is then scored by it and by transformers (bench/gpu/reference_logprobs.py), all with the
// same bfloat16 weights. Needs python3 (or KADENZ_PYTHON) with torch and transformers.

import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Engine } from '../../dist/index.js';
import { randomModel, shapesToTest } from './random_model.js';

const NUM_PROMPTS = 64;
const NUM_TOKENS = 128;
const MOST_RATIO = 1.1;
const SMOLLM2 = '.cache/smollm2';
const DEVICE = process.env.KADENZ_ACCURACY_DEVICE ?? 'cuda';
const SEED = Number(process.env.KADENZ_ACCURACY_SEED ?? 0);

/** Small ones as python/tests/random_models.py names them, each a directory of that name in `folder`. */
const SMALL = ['llama2', 'llama3.1', 'llama-linear', 'llama-yarn', 'mistral', 'qwen2', 'qwen2-yarn', 'qwen3'];
const SHAPES = shapesToTest(['qwen2.5-0.5b', 'qwen2.5-1.5b']);
const HAS_SMOLLM2 = existsSync(join(SMOLLM2, 'model.safetensors'));

interface Deviation {
  mean: number;
  maximum: number;
}

interface Sampled {
  sequences: number[][];
  scores: Float32Array[];
}

function python(args: string[]): string {
  const program = process.env.KADENZ_PYTHON ?? 'python3';
  const script = ['bench/gpu/reference_logprobs.py', ...args];
  return execFileSync(program, script, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
}

/** Paragraphs of this repository's documentation, the longest first cut. */
function textPrompts(): string[] {
  const paragraphs = [
    ...readdirSync('docs').map((name) => join('docs', name)),
    'README.md',
    'CONTRIBUTING.md',
  ]
    .filter((path) => path.endsWith('.md'))
    .sort()
    .flatMap((path) => readFileSync(path, 'utf8').split(/\n\s*\n/))
    .map((paragraph) => paragraph.trim().slice(0, 500))
    .filter((paragraph) => /^[A-Z][a-z]/.test(paragraph) && paragraph.length > 60);
  expect(paragraphs.length).toBeGreaterThanOrEqual(NUM_PROMPTS);
  return paragraphs.slice(0, NUM_PROMPTS);
}

/** Of 16 to 200 tokens. */
function randomPrompts(vocabSize: number): number[][] {
  return Array.from({ length: NUM_PROMPTS }, (_, index) =>
    Array.from(
      { length: 16 + ((index * 71 + SEED) % 185) },
      (_, k) => (k * 7919 + index * 104_729 + SEED * 31 + k * k * 17) % Math.min(vocabSize, 40_000),
    ),
  );
}

/** Prompts, each continued by NUM_TOKENS that the engine samples, and the log-probs of all by `score`. */
async function sample(model: string): Promise<Sampled> {
  const engine = await Engine.create({
    ...{ model, device: DEVICE as 'cuda', dtype: 'bfloat16' },
    ...{ maxNumSeqs: NUM_PROMPTS, maxModelLen: 512, kvCacheBlocks: 2000 },
  });
  try {
    const prompts =
      model === SMOLLM2
        ? textPrompts().map((prompt) => ({ prompt }))
        : randomPrompts(engine.info.vocabSize).map((promptTokenIds) => ({ promptTokenIds }));
    const results = await engine.generate(
      prompts.map((prompt, index) => ({
        ...prompt,
        ...{ maxTokens: NUM_TOKENS, ignoreEos: true, seed: index + 1000 * SEED },
      })),
    );
    const sequences = results.map(({ promptTokenIds, samples, error }) => {
      if (error !== undefined) throw error;
      return [...promptTokenIds, ...samples[0]!.tokenIds];
    });
    return { sequences, scores: await engine.score(sequences) };
  } finally {
    await engine.close();
  }
}

function readFloats(path: string): Float32Array {
  const bytes = readFileSync(path);
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
}

/** Of the last NUM_TOKENS of each sequence, which is what was generated. */
function generatedPart(values: Float32Array, sequences: number[][]): number[] {
  let end = 0;
  const parts = sequences.flatMap(({ length }) => {
    end += length - 1;
    return Array.from(values.subarray(end - NUM_TOKENS, end));
  });
  expect(end).toBe(values.length);
  return parts;
}

function deviation(values: number[], reference: number[]): Deviation {
  const differences = values.map((value, index) => Math.abs(value - reference[index]!));
  const mean = differences.reduce((sum, difference) => sum + difference, 0) / differences.length;
  return { mean, maximum: differences.reduce((most, difference) => Math.max(most, difference), 0) };
}

let folder = '';
const words = new Map<string, string>();
const sampled = new Map<string, Sampled>();
const pathOf = (name: string, suffix: string) => join(folder, `${name}-logprobs${suffix}`);

function makeSmallModels(): void {
  for (const line of python(['--make-tiny', folder, '--seed', String(SEED)])
    .trim()
    .split('\n')) {
    const made = JSON.parse(line) as { name: string; words: string };
    words.set(made.name, made.words);
  }
}

// One call of transformers for all models: to start it takes longer than to compute.
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'kadenz-gpu-'));
  makeSmallModels();
  const models: [string, string][] = [
    ...SMALL.map((name): [string, string] => [name, join(folder, name)]),
    ...SHAPES.map((shape): [string, string] => [shape, randomModel(shape)]),
    ...(HAS_SMOLLM2 ? [['smollm2', SMOLLM2] as [string, string]] : []),
  ];
  const jobs = [];
  for (const [name, model] of models) {
    const one = await sample(model);
    sampled.set(name, one);
    writeFileSync(pathOf(name, '.json'), JSON.stringify(one.sequences));
    jobs.push({ model, sequences: pathOf(name, '.json'), output: pathOf(name, '') });
  }
  writeFileSync(join(folder, 'jobs.json'), JSON.stringify(jobs));
  python([join(folder, 'jobs.json'), '--device', DEVICE.split(':')[0]!]);
});
afterAll(() => rmSync(folder, { recursive: true }));

function expectAsNear(name: string): void {
  const { sequences, scores } = sampled.get(name)!;
  const reference = generatedPart(readFloats(pathOf(name, '.float32')), sequences);
  const bfloat16 = generatedPart(readFloats(pathOf(name, '.bfloat16')), sequences);
  const values = scores.flatMap((row) => Array.from(row.slice(-NUM_TOKENS)));
  expect(values.length).toBe(NUM_PROMPTS * NUM_TOKENS);
  expect(reference.length).toBe(values.length);
  const ours = deviation(values, reference);
  const transformers = deviation(bfloat16, reference);
  console.log(`accuracy ${name}: ${JSON.stringify({ ours, transformers })}`);
  const what = `${words.get(name) ?? name}: ours ${JSON.stringify(ours)}, transformers ${JSON.stringify(transformers)}`;
  // A comparison of something with itself would pass everything below.
  expect(ours.mean, what).toBeGreaterThan(0);
  // NaN fails both.
  expect(ours.mean / transformers.mean, what).toBeLessThanOrEqual(MOST_RATIO);
  expect(ours.maximum / transformers.maximum, what).toBeLessThanOrEqual(MOST_RATIO);
}

describe('log-probs are as near to float32 as those of transformers in bfloat16', () => {
  it.each(SMALL)('of a small random %s', (name) => expectAsNear(name));
  it.each(SHAPES)('of a random %s', (shape) => expectAsNear(shape));
  it.skipIf(!HAS_SMOLLM2)('of SmolLM2', () => expectAsNear('smollm2'));
});
