// Instructions off the wire as plain objects (schemas/instruction.fbs says what each column means), for tests and tools:
// an object per entry. The engine and the host read the columns where they lie.

import * as wire from '../generated/index.js';
import type { MemoryTag } from './commands.js';
import { fromWide, messageBuffer } from './flat.js';
import type { SamplingParamsObject } from './requests.js';

/** A slot that gets a new sequence. */
export interface OpenObject {
  slot: number;
  sample: number;
  promptTokens: number;
  adapter: number;
  params: Required<SamplingParamsObject>;
  /** All tokens known so far, where the sequence's penalties need them. */
  historyTokenIds: number[];
  /** Ids that may not be sampled before minTokens. */
  stopTokenIds: number[];
  bias: { tokenId: number; bias: number }[];
}

/** Consecutive positions of one sequence. */
export interface SequenceObject {
  slot: number;
  start: number;
  numTokens: number;
  /** Index of its first row among the rows of the step. */
  firstRow: number;
  /** One per position; -1 - r means: what sample r of the step before gave. */
  tokenIds: number[];
}

/** The token after row `row` is sampled; `position` is where it will stand. */
export interface SampleObject {
  index: number;
  row: number;
  slot: number;
  position: number;
}

export interface StepPlanObject {
  step: number;
  weightVersion: number | bigint;
  type: 'stepPlan';
  opens: OpenObject[];
  tableChanges: { slot: number; index: number; block: number }[];
  copies: { source: number; target: number }[];
  sequences: SequenceObject[];
  /** Rows of the whole step, flattened. */
  numTokens: number;
  samples: SampleObject[];
  scores: { row: number; slot: number; tokenId: number }[];
}

interface InstructionHead {
  step: number;
  weightVersion: number | bigint;
}

/** A control command that the host carries out between two steps. */
export type ControlObject = InstructionHead &
  (
    | { type: 'beginWeightUpdate' }
    | { type: 'finishWeightUpdate'; version: number | bigint; succeeded: boolean }
    | { type: 'releaseMemory'; tags: MemoryTag[]; abortRunning: boolean }
    | { type: 'resumeMemory'; tags: MemoryTag[] }
    | { type: 'loadAdapter'; adapter: number; name: string; path: string }
    | { type: 'unloadAdapter'; adapter: number }
    | {
        type: 'setParallelGroups';
        tensorParallelSize: number;
        pipelineParallelSize: number;
        dataParallelSize: number;
        rank: number;
      }
    | { type: 'shutdown' }
  );

export type InstructionObject = StepPlanObject | ControlObject;

export function memoryTags(bits: number): MemoryTag[] {
  const tags: MemoryTag[] = [];
  if (bits & wire.MemoryTags.kv_cache) tags.push('kv_cache');
  if (bits & wire.MemoryTags.weights) tags.push('weights');
  return tags;
}

/** @param bytes an Instruction that the core wrote, or that was verified */
export function decodeInstruction(bytes: Uint8Array): InstructionObject {
  const instruction = wire.Instruction.getRootAsInstruction(messageBuffer(bytes));
  const head = { step: Number(instruction.step()), weightVersion: fromWide(instruction.weightVersion()) };
  const { Work } = wire;
  switch (instruction.workType()) {
    case Work.StepPlan:
      return { ...head, type: 'stepPlan', ...decodePlan(instruction.work(new wire.StepPlan())) };
    case Work.BeginWeightUpdate:
      return { ...head, type: 'beginWeightUpdate' };
    case Work.FinishWeightUpdate: {
      const work: wire.FinishWeightUpdate = instruction.work(new wire.FinishWeightUpdate());
      return {
        ...head,
        type: 'finishWeightUpdate',
        version: fromWide(work.version()),
        succeeded: work.succeeded(),
      };
    }
    case Work.ReleaseMemory: {
      const work: wire.ReleaseMemory = instruction.work(new wire.ReleaseMemory());
      return {
        ...head,
        type: 'releaseMemory',
        tags: memoryTags(work.tags()),
        abortRunning: work.abortRunning(),
      };
    }
    case Work.ResumeMemory: {
      const work: wire.ResumeMemory = instruction.work(new wire.ResumeMemory());
      return { ...head, type: 'resumeMemory', tags: memoryTags(work.tags()) };
    }
    case Work.LoadAdapter: {
      const work: wire.LoadAdapter = instruction.work(new wire.LoadAdapter());
      const [name, path] = [work.name() ?? '', work.path() ?? ''];
      return { ...head, type: 'loadAdapter', adapter: work.adapter(), name, path };
    }
    case Work.UnloadAdapter: {
      const work: wire.UnloadAdapter = instruction.work(new wire.UnloadAdapter());
      return { ...head, type: 'unloadAdapter', adapter: work.adapter() };
    }
    case Work.SetParallelGroups: {
      const work: wire.SetParallelGroups = instruction.work(new wire.SetParallelGroups());
      return {
        ...head,
        type: 'setParallelGroups',
        tensorParallelSize: work.tensorParallelSize(),
        pipelineParallelSize: work.pipelineParallelSize(),
        dataParallelSize: work.dataParallelSize(),
        rank: work.rank(),
      };
    }
    case Work.Shutdown:
      return { ...head, type: 'shutdown' };
    default:
      throw new Error(
        `instruction ${head.step} carries work of type ${instruction.workType()}, which is unknown`,
      );
  }
}

type Column = Int32Array | Uint32Array | Float32Array | null;

/** Entry i of a flat column with running ends. */
function range(ends: Uint32Array | null, i: number): [number, number] {
  return [i === 0 ? 0 : (ends?.[i - 1] ?? 0), ends?.[i] ?? 0];
}

function slice(column: Column, [start, end]: [number, number]): number[] {
  return column === null ? [] : Array.from(column.subarray(start, end));
}

function decodePlan(plan: wire.StepPlan) {
  const [tableSlot, tableIndex, tableBlock] = [
    plan.tableSlotArray(),
    plan.tableIndexArray(),
    plan.tableBlockArray(),
  ];
  const [copySource, copyTarget] = [plan.copySourceArray(), plan.copyTargetArray()];
  const [scoreRow, scoreSlot, scoreToken] = [
    plan.scoreRowArray(),
    plan.scoreSlotArray(),
    plan.scoreTokenArray(),
  ];
  const sequences = decodeSequences(plan);
  return {
    opens: decodeOpens(plan),
    tableChanges: Array.from({ length: plan.tableSlotLength() }, (_, i) => ({
      slot: tableSlot![i]!,
      index: tableIndex![i]!,
      block: tableBlock![i]!,
    })),
    copies: Array.from({ length: plan.copySourceLength() }, (_, i) => ({
      source: copySource![i]!,
      target: copyTarget![i]!,
    })),
    sequences,
    numTokens: plan.tokenIdsLength(),
    samples: decodeSamples(plan, sequences),
    scores: Array.from({ length: plan.scoreRowLength() }, (_, i) => ({
      row: scoreRow![i]!,
      slot: scoreSlot![i]!,
      tokenId: scoreToken![i]!,
    })),
  };
}

function decodeSequences(plan: wire.StepPlan): SequenceObject[] {
  const [slots, starts, counts] = [
    plan.sequenceSlotArray(),
    plan.sequenceStartArray(),
    plan.sequenceNumTokensArray(),
  ];
  const tokenIds = plan.tokenIdsArray();
  let firstRow = 0;
  return Array.from({ length: plan.sequenceSlotLength() }, (_, i) => {
    const numTokens = counts![i]!;
    const sequence = {
      slot: slots![i]!,
      start: starts![i]!,
      numTokens,
      firstRow,
      tokenIds: slice(tokenIds, [firstRow, firstRow + numTokens]),
    };
    firstRow += numTokens;
    return sequence;
  });
}

function decodeSamples(plan: wire.StepPlan, sequences: readonly SequenceObject[]): SampleObject[] {
  const [rows, slots] = [plan.sampleRowArray(), plan.sampleSlotArray()];
  const positions = sequences.flatMap(({ start, numTokens }) =>
    Array.from({ length: numTokens }, (_, i) => start + i + 1),
  );
  return Array.from({ length: plan.sampleRowLength() }, (_, index) => {
    const row = rows![index]!;
    const position = positions[row];
    if (position === undefined)
      throw new Error(`sample ${index} names row ${row}; the step has ${positions.length}`);
    return { index, row, slot: slots![index]!, position };
  });
}

function decodeOpens(plan: wire.StepPlan): OpenObject[] {
  const [slots, samples] = [plan.openSlotArray(), plan.openSampleArray()];
  const [promptTokens, adapters] = [plan.openPromptTokensArray(), plan.openAdapterArray()];
  const [historyEnds, stopEnds, biasEnds] = [
    plan.openHistoryEndArray(),
    plan.openStopEndArray(),
    plan.openBiasEndArray(),
  ];
  const biases = plan.biasArray();
  const params = new wire.SamplingParams();
  return Array.from({ length: plan.openSlotLength() }, (_, i) => {
    const [firstBias] = range(biasEnds, i);
    const biasTokenIds = slice(plan.biasTokenIdsArray(), range(biasEnds, i));
    return {
      slot: slots![i]!,
      sample: samples![i]!,
      promptTokens: promptTokens![i]!,
      adapter: adapters![i]!,
      params: decodeParams(plan.openParams(i, params)!),
      historyTokenIds: slice(plan.historyTokenIdsArray(), range(historyEnds, i)),
      stopTokenIds: slice(plan.stopTokenIdsArray(), range(stopEnds, i)),
      bias: biasTokenIds.map((tokenId, at) => ({ tokenId, bias: biases![firstBias + at]! })),
    };
  });
}

/** Sampling parameters off the wire. */
export function decodeParams(params: wire.SamplingParams): Required<SamplingParamsObject> {
  return {
    seed: fromWide(params.seed()),
    temperature: params.temperature(),
    topP: params.topP(),
    minP: params.minP(),
    repetitionPenalty: params.repetitionPenalty(),
    presencePenalty: params.presencePenalty(),
    frequencyPenalty: params.frequencyPenalty(),
    topK: params.topK(),
    maxTokens: params.maxTokens(),
    minTokens: params.minTokens(),
    logprobs: params.logprobs(),
    promptLogprobs: params.promptLogprobs(),
    logprobsMode: params.logprobsMode() === wire.LogprobsMode.processed ? 'processed' : 'raw',
    ignoreEos: params.ignoreEos(),
  };
}
