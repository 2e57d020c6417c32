// Lengths of outputs and prompts: what the flag says, and how a length is drawn from it.
//
//   fixed:512                  every one
//   lognormal:MEDIAN,SIGMA     median in tokens, sigma of the logarithm; ,CAP cuts what is longer down to the cap
//   lengths.txt, rollout.jsonl one number a line, or JSON lines: {"output_tokens"} or {"prompt_tokens"}; drawn with replacement
//
// The lengths of a prompt's samples depend on the seed and the prompt's number alone: the same sample is as long in every what-if,
// so cases differ by what was changed and not by luck. No Math.log or Math.exp: math.ts says why.

import { readFileSync } from 'node:fs';
import { xoroshiro128plusFromState } from 'pure-rand/generator/xoroshiro128plus';
import type { RandomGenerator } from 'pure-rand/types/RandomGenerator';
import { KadenzError } from '../../errors.js';
import { exactExp, exactLn } from './math.js';

/** Plain data: it can be cloned into a worker. */
export type LengthDistribution =
  | { kind: 'fixed'; tokens: number }
  | { kind: 'lognormal'; median: number; sigma: number; cap: number }
  | { kind: 'list'; tokens: Uint32Array };

export interface LengthFlag {
  /** As the user typed it, for the sentence of an error. */
  flag: string;
  /** The field of JSON lines. */
  field: 'output_tokens' | 'prompt_tokens';
}

export const MAX_LENGTH_TOKENS = 2 ** 24;
const MAX_FILE_BYTES = 256 * 2 ** 20;
const MAX_SIGMA = 5;

/** Which of the two kinds of lengths is drawn: they must not share their randomness. */
export type LengthStream = 'output' | 'prompt';
const STREAM_NUMBERS: Readonly<Record<LengthStream, number>> = { output: 1, prompt: 2 };

/** Throws invalid_argument or input_not_found with a sentence that names the flag. */
export function parseLengths(text: string, { flag, field }: LengthFlag): LengthDistribution {
  const [, kind, values] = /^(fixed|lognormal):(.*)$/s.exec(text) ?? [];
  if (kind === undefined) return { kind: 'list', tokens: readLengthFile(text, { flag, field }) };
  const numbers = values!.split(',').map((value) => (value.trim() === '' ? Number.NaN : Number(value)));
  if (kind === 'fixed') {
    const [tokens] = numbers;
    if (numbers.length !== 1 || !isLength(tokens)) {
      refuse(flag, text, `fixed: takes one whole number of tokens from 1 to ${MAX_LENGTH_TOKENS}`);
    }
    return { kind, tokens: tokens! };
  }
  const [median, sigma, cap = MAX_LENGTH_TOKENS] = numbers;
  if (numbers.length < 2 || numbers.length > 3)
    refuse(flag, text, 'lognormal: takes MEDIAN,SIGMA or MEDIAN,SIGMA,CAP');
  if (!(median! >= 1 && median! <= MAX_LENGTH_TOKENS))
    refuse(flag, text, `the median is from 1 to ${MAX_LENGTH_TOKENS} tokens`);
  if (!(sigma! >= 0 && sigma! <= MAX_SIGMA)) refuse(flag, text, `sigma is from 0 to ${MAX_SIGMA}`);
  if (!isLength(cap)) refuse(flag, text, `the cap is a whole number from 1 to ${MAX_LENGTH_TOKENS}`);
  return { kind: 'lognormal', median: median!, sigma: sigma!, cap };
}

/** The longest that can be drawn. */
export function longestOf(distribution: LengthDistribution): number {
  if (distribution.kind === 'fixed') return distribution.tokens;
  if (distribution.kind === 'lognormal') return distribution.cap;
  return distribution.tokens.reduce((longest, tokens) => Math.max(longest, tokens), 0);
}

/** The lengths of `count` samples of one prompt, each cut to `most`; a longer row of samples begins like a shorter one. */
export function drawLengths(
  distribution: LengthDistribution,
  {
    seed,
    stream,
    prompt,
    count,
    most,
  }: { seed: number; stream: LengthStream; prompt: number; count: number; most: number },
): Uint32Array {
  const lengths = new Uint32Array(count);
  if (distribution.kind === 'fixed') return lengths.fill(Math.min(most, distribution.tokens));
  const random = generatorOf(seed, STREAM_NUMBERS[stream], prompt);
  for (let i = 0; i < count; i += 1) lengths[i] = Math.min(most, draw(distribution, random));
  return lengths;
}

function draw(distribution: Exclude<LengthDistribution, { kind: 'fixed' }>, random: RandomGenerator): number {
  if (distribution.kind === 'list') {
    const { tokens } = distribution;
    return tokens[Math.floor(uniform(random) * tokens.length)]!;
  }
  const { median, sigma, cap } = distribution;
  const tokens = Math.round(median * exactExp(sigma * normal(random)));
  return Math.min(cap, Math.max(1, tokens));
}

/** A standard normal number by Marsaglia's polar method; of the pair that it gives, one is used. */
function normal(random: RandomGenerator): number {
  for (;;) {
    const x = 2 * uniform(random) - 1;
    const y = 2 * uniform(random) - 1;
    const square = x * x + y * y;
    if (square > 0 && square < 1) return x * Math.sqrt((-2 * exactLn(square)) / square);
  }
}

/** From 0 to just under 1, in steps of 2^-32. */
function uniform(random: RandomGenerator): number {
  return (random.next() >>> 0) / 2 ** 32;
}

function generatorOf(seed: number, stream: number, prompt: number): RandomGenerator {
  let hash = scramble(seed >>> 0) ^ scramble(Math.floor(seed / 2 ** 32) + stream * 0x9e37);
  const state: number[] = [];
  for (let word = 0; word < 4; word += 1) {
    hash = scramble(hash + Math.imul(prompt + 1, 0x9e3779b1) + word);
    state.push(hash);
  }
  if (!state.some((word) => word !== 0)) state.fill(1);
  return xoroshiro128plusFromState(state);
}

/** A bijection of 32-bit integers in which each bit depends on all others. */
function scramble(value: number): number {
  let mixed = (value + 0x7f4a7c15) | 0;
  mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return mixed ^ (mixed >>> 16);
}

function isLength(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 1 && (value as number) <= MAX_LENGTH_TOKENS;
}

function refuse(flag: string, value: string, why: string): never {
  throw new KadenzError('invalid_argument', `${flag} can't be ${JSON.stringify(value)}: ${why}.`, { value });
}

function readLengthFile(path: string, { flag, field }: LengthFlag): Uint32Array {
  const lines = readText(path, flag).split('\n');
  const tokens: number[] = [];
  for (const [index, line] of lines.entries()) {
    if (line.trim() === '') continue;
    const value = lengthOfLine(line, field);
    if (!isLength(value)) {
      throw new KadenzError(
        'invalid_argument',
        `${path}, line ${index + 1}: ${JSON.stringify(line.slice(0, 80))} is no length. A line is a whole number of tokens ` +
          `from 1 to ${MAX_LENGTH_TOKENS}, or a JSON object that has one as "${field}".`,
        { path, line: index + 1, value: line.slice(0, 80) },
      );
    }
    tokens.push(value);
  }
  if (tokens.length === 0) refuse(flag, path, 'the file has no length in it');
  // Every task of a plan carries its lengths: shared memory is not copied for each.
  const shared = new Uint32Array(new SharedArrayBuffer(tokens.length * Uint32Array.BYTES_PER_ELEMENT));
  shared.set(tokens);
  return shared;
}

function readText(path: string, flag: string): string {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw new KadenzError(
      'input_not_found',
      `${flag} names the file ${JSON.stringify(path)}, which can't be read (${(cause as Error).message}). ` +
        'It is a file of lengths, fixed:TOKENS, or lognormal:MEDIAN,SIGMA,CAP.',
      { path, cause },
    );
  }
  if (bytes.byteLength > MAX_FILE_BYTES)
    refuse(flag, path, `the file is larger than ${MAX_FILE_BYTES} bytes`);
  return bytes.toString('utf8');
}

function lengthOfLine(line: string, field: string): unknown {
  if (/^\s*\d+\s*$/.test(line)) return Number(line);
  try {
    return (JSON.parse(line) as Record<string, unknown> | null)?.[field];
  } catch {
    return undefined;
  }
}
