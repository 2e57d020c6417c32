// Instructions written by hand, and a host driven with them: what the core would send, without the core.

import * as flatbuffers from 'flatbuffers';
import { decodeResult } from '../../src/core/results.js';
import {
  Instruction,
  LogprobsMode,
  type MemoryTags,
  ReleaseMemory,
  ResumeMemory,
  SamplingParams,
  SetParallelGroups,
  Shutdown,
  StepPlan,
  Work,
} from '../../src/generated/index.js';
import type { Host } from '../../src/host/host.js';

export interface ParamsFields {
  seed?: bigint;
  temperature?: number;
  topP?: number;
  minP?: number;
  repetitionPenalty?: number;
  presencePenalty?: number;
  frequencyPenalty?: number;
  topK?: number;
  minTokens?: number;
  logprobs?: number;
  promptLogprobs?: number;
  processed?: boolean;
}

export interface OpenFields {
  slot: number;
  sample?: number;
  promptTokens: number;
  params?: ParamsFields;
  history?: number[];
  stops?: number[];
  bias?: [token: number, bias: number][];
  adapter?: number;
}

export interface PlanFields {
  open?: OpenFields[];
  table?: [slot: number, index: number, block: number][];
  copy?: [source: number, target: number][];
  sequences?: { slot: number; start: number; tokens: number[] }[];
  samples?: [row: number, slot: number][];
  scores?: [row: number, slot: number, token: number][];
  /** Replaces vectors by name, to break a plan. */
  broken?: Record<string, number[]>;
}

const VECTORS = [
  ...([
    'OpenSlot',
    'OpenSample',
    'OpenPromptTokens',
    'OpenAdapter',
    'OpenHistoryEnd',
    'HistoryTokenIds',
  ] as const),
  ...([
    'OpenStopEnd',
    'StopTokenIds',
    'OpenBiasEnd',
    'BiasTokenIds',
    'Bias',
    'TableSlot',
    'TableIndex',
    'TableBlock',
  ] as const),
  ...([
    'CopySource',
    'CopyTarget',
    'SequenceSlot',
    'SequenceStart',
    'SequenceNumTokens',
    'TokenIds',
  ] as const),
  ...(['SampleRow', 'SampleSlot', 'ScoreRow', 'ScoreSlot', 'ScoreToken'] as const),
];
type VectorName = (typeof VECTORS)[number];

export function stepBytes(step: number, plan: PlanFields): Uint8Array {
  const { open = [], table = [], copy = [], sequences = [], samples = [], scores = [], broken = {} } = plan;
  const ends = (lengths: number[]) =>
    lengths.map((_, i) => lengths.slice(0, i + 1).reduce((sum, length) => sum + length, 0));
  const columns: Record<VectorName, number[]> = {
    OpenSlot: open.map(({ slot }) => slot),
    OpenSample: open.map(({ sample = 0 }) => sample),
    OpenPromptTokens: open.map(({ promptTokens }) => promptTokens),
    OpenAdapter: open.map(({ adapter = 0 }) => adapter),
    OpenHistoryEnd: ends(open.map(({ history = [] }) => history.length)),
    HistoryTokenIds: open.flatMap(({ history = [] }) => history),
    OpenStopEnd: ends(open.map(({ stops = [] }) => stops.length)),
    StopTokenIds: open.flatMap(({ stops = [] }) => stops),
    OpenBiasEnd: ends(open.map(({ bias = [] }) => bias.length)),
    BiasTokenIds: open.flatMap(({ bias = [] }) => bias.map(([token]) => token)),
    Bias: open.flatMap(({ bias = [] }) => bias.map(([, value]) => value)),
    TableSlot: table.map(([slot]) => slot),
    TableIndex: table.map(([, index]) => index),
    TableBlock: table.map(([, , block]) => block),
    CopySource: copy.map(([source]) => source),
    CopyTarget: copy.map(([, target]) => target),
    SequenceSlot: sequences.map(({ slot }) => slot),
    SequenceStart: sequences.map(({ start }) => start),
    SequenceNumTokens: sequences.map(({ tokens }) => tokens.length),
    TokenIds: sequences.flatMap(({ tokens }) => tokens),
    SampleRow: samples.map(([row]) => row),
    SampleSlot: samples.map(([, slot]) => slot),
    ScoreRow: scores.map(([row]) => row),
    ScoreSlot: scores.map(([, slot]) => slot),
    ScoreToken: scores.map(([, , token]) => token),
    ...broken,
  };
  const builder = new flatbuffers.Builder(1024);
  StepPlan.startOpenParamsVector(builder, open.length);
  for (const { params = {} } of [...open].reverse()) createParams(builder, params);
  const openParams = builder.endVector();
  const offsets = VECTORS.map((name) => StepPlan[`create${name}Vector`](builder, columns[name] as never));
  StepPlan.startStepPlan(builder);
  StepPlan.addOpenParams(builder, openParams);
  for (const [i, name] of VECTORS.entries()) StepPlan[`add${name}`](builder, offsets[i]!);
  return finish(builder, step, Work.StepPlan, StepPlan.endStepPlan(builder));
}

function createParams(builder: flatbuffers.Builder, params: ParamsFields): void {
  const {
    seed = 1n,
    temperature = 1,
    topP = 1,
    minP = 0,
    repetitionPenalty = 1,
    presencePenalty = 0,
  } = params;
  const {
    frequencyPenalty = 0,
    topK = 0,
    minTokens = 0,
    logprobs = 0,
    promptLogprobs = -1,
    processed = false,
  } = params;
  SamplingParams.createSamplingParams(
    builder,
    ...([seed, temperature, topP, minP, repetitionPenalty, presencePenalty, frequencyPenalty, topK] as const),
    ...([100, minTokens, logprobs, promptLogprobs] as const),
    ...([processed ? LogprobsMode.processed : LogprobsMode.raw, false, 0] as const),
  );
}

function finish(
  builder: flatbuffers.Builder,
  step: number,
  kind: Work,
  work: flatbuffers.Offset,
): Uint8Array {
  Instruction.startInstruction(builder);
  Instruction.addStep(builder, BigInt(step));
  Instruction.addWorkType(builder, kind);
  Instruction.addWork(builder, work);
  builder.finish(Instruction.endInstruction(builder));
  return builder.asUint8Array();
}

/** flatc's TypeScript takes the first flag for the default of a bit_flags enum, and would leave it out. */
function memoryBuilder(): flatbuffers.Builder {
  const builder = new flatbuffers.Builder();
  builder.forceDefaults(true);
  return builder;
}

export function releaseBytes(step: number, tags: MemoryTags): Uint8Array {
  const builder = memoryBuilder();
  return finish(builder, step, Work.ReleaseMemory, ReleaseMemory.createReleaseMemory(builder, tags, false));
}

export function resumeBytes(step: number, tags: MemoryTags): Uint8Array {
  const builder = memoryBuilder();
  return finish(builder, step, Work.ResumeMemory, ResumeMemory.createResumeMemory(builder, tags));
}

export function parallelGroupsBytes(step: number, tensorParallelSize: number): Uint8Array {
  const builder = new flatbuffers.Builder();
  return finish(
    builder,
    step,
    Work.SetParallelGroups,
    SetParallelGroups.createSetParallelGroups(builder, tensorParallelSize, 1, 1, 0),
  );
}

export function emptyWorkBytes(step: number, kind: Work): Uint8Array {
  const builder = new flatbuffers.Builder();
  Shutdown.startShutdown(builder); // a table without fields, whatever it is called
  return finish(builder, step, kind, Shutdown.endShutdown(builder));
}

/** Submits and collects one step. */
export function runStep(host: Host, step: number, plan: PlanFields): ReturnType<typeof decodeResult> {
  host.submit(stepBytes(step, plan));
  return decodeResult(host.collect());
}

/** The bits of a float32, so that comparisons are exact and NaN equals NaN. */
export function bits(values: ArrayLike<number>): number[] {
  return [...new Uint32Array(Float32Array.from(values).buffer)];
}
