// The flags of `kadenz simulate --plan`, judged: what comes out are cases with every number settled, the base first and one for each
// value of each --what-if.

import { resolve } from 'node:path';
import { KadenzError } from '../../errors.js';
import { readModelConfig } from '../../model/config_json.js';
import { readJsonFile } from '../../model/json_file.js';
import { type ModelDtype, modelShapeOf } from '../cost_model.js';
import { deviceProfile } from '../device_profiles.js';
import type { WeightsLink } from './broadcast.js';
import type { CaseOptions } from './case.js';
import { longestOf, MAX_LENGTH_TOKENS, parseLengths } from './lengths.js';
import { kvBlocksThatFit } from './memory.js';
import type { GroupPlacement, PlanCase } from './workload.js';

export interface PlanOptions extends CaseOptions {
  cases: PlanCase[];
  svg: string | null;
  json: boolean;
  /** null: as many as there are processors. */
  workers: number | null;
  oversample: number;
  dtype: ModelDtype;
}

export type PlanFlags = Record<string, unknown>;

const MAX_PROMPTS = 2 ** 24;
const MAX_SAMPLES = 2 ** 26;
const MAX_REPLICAS = 100_000;
const MAX_N = 4096;
const MAX_CASES = 64;
const NETWORK_BYTES_PER_SECOND = 50e9;

export function planOptionsOf(flags: PlanFlags): PlanOptions {
  const dtype = choiceOf(flags, 'dtype', ['bfloat16', 'float32'] as const, 'bfloat16');
  const oversample = numberOf(flags, 'oversample', { least: 1, most: 64, otherwise: 1 });
  const base = baseCase(flags, { dtype, oversample });
  const cases = [base, ...whatIfsOf(flags).flatMap((text) => casesOf(text, base, oversample))];
  if (cases.length > MAX_CASES)
    refuse('--what-if', `${cases.length - 1} values`, `a plan has at most ${MAX_CASES - 1}`);
  for (const plan of cases) checkCase(plan);
  return {
    cases,
    dtype,
    oversample,
    simulateReplicas: integerOf(flags, 'simulateReplicas', { least: 1, most: 4096, otherwise: 16 }),
    weightsLink: weightsLinkOf(flags),
    gpusPerMachine: integerOf(flags, 'gpusPerMachine', { least: 1, most: 1024, otherwise: 8 }),
    svg: textOf(flags, 'svg'),
    json: flags.json === true,
    workers:
      flags.workers === undefined
        ? null
        : integerOf(flags, 'workers', { least: 1, most: 1024, otherwise: 1 }),
  };
}

function baseCase(
  flags: PlanFlags,
  { dtype, oversample }: { dtype: ModelDtype; oversample: number },
): PlanCase {
  const path = resolve(required(flags, 'modelConfig'));
  const json = readJsonFile(path, 'invalid_model_config');
  if (json === null)
    throw new KadenzError('input_not_found', `--model-config names ${path}, which is not there.`, { path });
  const model = modelShapeOf(readModelConfig(json, path), dtype);
  const device = deviceProfile(textOf(flags, 'deviceProfile') ?? 'h200');
  device.efficiency = numberOf(flags, 'efficiency', { least: 0.01, most: 1, otherwise: device.efficiency });
  const lengths = parseLengths(required(flags, 'lengths'), { flag: '--lengths', field: 'output_tokens' });
  const promptFlag = { flag: '--prompt-lengths', field: 'prompt_tokens' } as const;
  const promptLengths = parseLengths(textOf(flags, 'promptLengths') ?? 'fixed:512', promptFlag);
  const n = integerOf(flags, 'n', { least: 1, most: MAX_N, otherwise: 1 });
  const positions = model.maxPositionEmbeddings;
  const limits = {
    blockSize: integerOf(flags, 'blockSize', { least: 2, most: 1024, otherwise: 16 }),
    maxNumSeqs: integerOf(flags, 'maxNumSeqs', { least: 1, most: 2 ** 16, otherwise: 256 }),
    maxNumBatchedTokens: integerOf(flags, 'maxNumBatchedTokens', {
      least: 1,
      most: 2 ** 20,
      otherwise: 8192,
    }),
    maxModelLen: integerOf(flags, 'maxModelLen', { least: 2, most: positions, otherwise: positions }),
  };
  const utilization = numberOf(flags, 'gpuMemoryUtilization', { least: 0.01, most: 1, otherwise: 0.9 });
  const numBlocks =
    flags.kvBlocks === undefined
      ? kvBlocksThatFit(device, model, { ...limits, utilization })
      : integerOf(flags, 'kvBlocks', { least: 1, most: 2 ** 24, otherwise: 1 });
  return {
    name: 'base',
    device,
    model,
    scheduler: { ...limits, numBlocks },
    seed: integerOf(flags, 'seed', { least: 0, most: Number.MAX_SAFE_INTEGER, otherwise: 0 }),
    prompts: integerOf(flags, 'prompts', { least: 1, most: MAX_PROMPTS }),
    n,
    startedN: startedOf(n, oversample),
    lengths,
    promptLengths,
    sharedPrefixTokens: integerOf(flags, 'sharedPrefix', { least: 0, most: 2 ** 24, otherwise: 0 }),
    placement: choiceOf(flags, 'groupPlacement', ['prefix', 'round-robin'] as const, 'prefix'),
    replicas: integerOf(flags, 'replicas', { least: 1, most: MAX_REPLICAS, otherwise: 1 }),
  };
}

/** Samples started for n wanted ones; a factor such as 1.1 must not round 11.000000000000002 up. */
function startedOf(n: number, oversample: number): number {
  return Math.ceil(n * oversample - 1e-9);
}

function whatIfsOf({ whatIf }: PlanFlags): string[] {
  if (whatIf === undefined) return [];
  return (Array.isArray(whatIf) ? whatIf : [whatIf]).map(String);
}

type Change = (base: PlanCase, value: number, oversample: number) => Partial<PlanCase>;

/** What a --what-if can change: whether to a whole number, from, to, and how. */
const CHANGES: Readonly<Record<string, { whole: boolean; least: number; most: number; change: Change }>> = {
  kv: {
    whole: false,
    least: 0.001,
    most: 1000,
    change: ({ scheduler }, value) => ({
      scheduler: { ...scheduler, numBlocks: Math.max(1, Math.floor(scheduler.numBlocks * value)) },
    }),
  },
  n: {
    whole: true,
    least: 1,
    most: MAX_N,
    change: (_, n, oversample) => ({ n, startedN: startedOf(n, oversample) }),
  },
  oversample: {
    whole: false,
    least: 1,
    most: 64,
    change: ({ n }, value) => ({ startedN: startedOf(n, value) }),
  },
  replicas: { whole: true, least: 1, most: MAX_REPLICAS, change: (_, replicas) => ({ replicas }) },
  'max-num-seqs': {
    whole: true,
    least: 1,
    most: 2 ** 16,
    change: ({ scheduler }, maxNumSeqs) => ({ scheduler: { ...scheduler, maxNumSeqs } }),
  },
};

function casesOf(text: string, base: PlanCase, oversample: number): PlanCase[] {
  const [, name, list] = /^([a-z-]+)=(.+)$/.exec(text) ?? [];
  const rule = name === undefined || !Object.hasOwn(CHANGES, name) ? undefined : CHANGES[name];
  if (rule === undefined) {
    refuse(
      '--what-if',
      text,
      `it takes ${Object.keys(CHANGES).join(', ')}, then = and values with commas between them, such as kv=0.5,2`,
    );
  }
  return list!.split(',').map((item) => {
    const value = item.trim() === '' ? Number.NaN : Number(item);
    const fits = value >= rule.least && value <= rule.most && (!rule.whole || Number.isInteger(value));
    if (!fits) {
      refuse(
        '--what-if',
        text,
        `a value of ${name} is a ${rule.whole ? 'whole ' : ''}number from ${rule.least} to ${rule.most}, not ${JSON.stringify(item)}`,
      );
    }
    return { ...base, ...rule.change(base, value, oversample), name: `${name}=${value}` };
  });
}

function checkCase(plan: PlanCase): void {
  const { scheduler, prompts, startedN, replicas, placement, name } = plan;
  if (prompts * startedN > MAX_SAMPLES) {
    refuse(
      '--prompts',
      prompts,
      `with ${startedN} samples of each that are more than ${MAX_SAMPLES}, the most that a plan takes`,
    );
  }
  if (startedN > plan.n && placement === 'round-robin' && replicas > 1) {
    refuse(
      '--group-placement',
      placement,
      'with over-sampling the samples of a group stop together, which needs them on one replica (prefix)',
    );
  }
  if (scheduler.maxNumBatchedTokens < scheduler.maxNumSeqs) {
    const why = `each of ${scheduler.maxNumSeqs} sequences (--max-num-seqs) computes a token in a step, so it is at least as large`;
    refuse('--max-num-batched-tokens', scheduler.maxNumBatchedTokens, why);
  }
  const longestPrompt = plan.sharedPrefixTokens + longestOf(plan.promptLengths);
  const longest = Math.min(scheduler.maxModelLen, longestPrompt + longestOf(plan.lengths));
  const pool = scheduler.numBlocks * scheduler.blockSize;
  if (longestPrompt < MAX_LENGTH_TOKENS && longestPrompt >= scheduler.maxModelLen) {
    refuse(
      '--prompt-lengths',
      longestPrompt,
      `no output fits behind such a prompt into --max-model-len ${scheduler.maxModelLen}`,
    );
  }
  if (longest <= pool) return;
  throw new KadenzError(
    'invalid_argument',
    `Case '${name}': the KV pool of ${scheduler.numBlocks} blocks holds ${pool} tokens, and a sample may have ${longest}. ` +
      'Give it more blocks, or cap the lengths (lognormal:MEDIAN,SIGMA,CAP) or --max-model-len.',
    { value: longest, limit: pool },
  );
}

function weightsLinkOf(flags: PlanFlags): WeightsLink {
  const link: WeightsLink = { local: 'nvlink', networkBytesPerSecond: NETWORK_BYTES_PER_SECOND };
  const text = textOf(flags, 'weightsLink');
  for (const part of text === null ? [] : text.split(',')) {
    const [, gbPerSecond] = /^ethernet:(\d+(?:\.\d+)?)$/.exec(part) ?? [];
    if (part === 'same-gpu' || part === 'nvlink' || part === 'pcie') link.local = part;
    else if (gbPerSecond !== undefined && Number(gbPerSecond) > 0)
      link.networkBytesPerSecond = Number(gbPerSecond) * 1e9;
    else
      refuse(
        '--weights-link',
        text,
        'it is same-gpu, nvlink or pcie within a machine, ethernet:GBPS between machines, or both with a comma',
      );
  }
  return link;
}

/** maxNumSeqs is --max-num-seqs. */
function flagOf(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

function refuse(flag: string, value: unknown, why: string): never {
  throw new KadenzError('invalid_argument', `${flag} can't be ${JSON.stringify(value)}: ${why}.`, { value });
}

function textOf(flags: PlanFlags, name: string): string | null {
  const value = flags[name];
  return value === undefined ? null : String(value);
}

function required(flags: PlanFlags, name: string): string {
  const value = textOf(flags, name);
  if (value !== null && value !== '') return value;
  throw new KadenzError('invalid_argument', `A plan needs ${flagOf(name)}; --help tells what it takes.`);
}

interface Range {
  least: number;
  most: number;
  /** None: the flag is needed. */
  otherwise?: number;
}

function numberOf(flags: PlanFlags, name: string, { least, most, otherwise }: Range): number {
  if (flags[name] === undefined && otherwise !== undefined) return otherwise;
  const text = required(flags, name);
  const value = Number(text);
  if (text.trim() !== '' && value >= least && value <= most) return value;
  return refuse(flagOf(name), text, `it is a number from ${least} to ${most}`);
}

function integerOf(flags: PlanFlags, name: string, range: Range): number {
  const value = numberOf(flags, name, range);
  if (Number.isInteger(value)) return value;
  return refuse(flagOf(name), value, 'it is a whole number');
}

function choiceOf<T extends GroupPlacement | ModelDtype>(
  flags: PlanFlags,
  name: string,
  choices: readonly T[],
  otherwise: T,
): T {
  const text = textOf(flags, name) ?? otherwise;
  const found = choices.find((choice) => choice === text);
  return found ?? refuse(flagOf(name), text, `it is ${choices.join(' or ')}`);
}
