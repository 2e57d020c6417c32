// Prints messages from flatc's TypeScript readers in the very lines of native/test/wire_golden.cc, so that two languages' readings can
// be compared as text.

import * as flatbuffers from 'flatbuffers';
import * as wire from '../../src/generated/index.js';

const PLAN_COLUMNS = [
  ...['open_slot', 'open_sample', 'open_prompt_tokens', 'open_adapter', 'open_params'],
  ...['open_history_end', 'history_token_ids', 'open_stop_end', 'stop_token_ids'],
  ...['open_bias_end', 'bias_token_ids', 'bias', 'table_slot', 'table_index', 'table_block', 'copy_source'],
  ...['copy_target', 'sequence_slot', 'sequence_start', 'sequence_num_tokens', 'token_ids', 'sample_row'],
  ...['sample_slot', 'score_row', 'score_slot', 'score_token'],
];

const RESULT_COLUMNS = [
  ...['token_ids', 'row_code', 'logprob', 'rank', 'top_end', 'top_token_ids', 'top_logprob'],
  ...['score_logprob', 'score_rank', 'score_top_end', 'score_top_token_ids', 'score_top_logprob'],
];

const camel = (name: string): string => name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());

function bits(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0]!;
}

type Column = Int32Array | Uint32Array | Uint16Array | Float32Array;

function column(table: object, name: string): string {
  const read = (table as Record<string, () => Column | null>)[`${camel(name)}Array`];
  if (read === undefined) throw new Error(`the generated reader has no column ${name}`);
  const values = read.call(table) ?? new Int32Array();
  const printed = values instanceof Float32Array ? Array.from(values, bits) : Array.from(values);
  return [name, values.length, ...printed].join(' ');
}

function paramsColumn(plan: wire.StepPlan): string {
  const rows = Array.from({ length: plan.openParamsLength() }, (_, i) => {
    const params = plan.openParams(i)!;
    const floats = [
      ...[params.temperature(), params.topP(), params.minP()],
      ...[params.repetitionPenalty(), params.presencePenalty(), params.frequencyPenalty()],
    ];
    return [
      ...[params.seed(), ...floats.map(bits), params.topK(), params.maxTokens(), params.minTokens()],
      ...[params.logprobs(), params.promptLogprobs(), params.logprobsMode(), Number(params.ignoreEos())],
    ].join(' ');
  });
  return ['open_params', rows.length, ...rows].join(' ');
}

export function dumpResult(bytes: Uint8Array): string {
  const result = wire.Result.getRootAsResult(new flatbuffers.ByteBuffer(bytes));
  const lines = [`step ${result.step()}`, `code ${result.code()}`, `message ${result.message() ?? ''}`];
  return `${[...lines, ...RESULT_COLUMNS.map((name) => column(result, name))].join('\n')}\n`;
}

export function dumpInstruction(bytes: Uint8Array): string {
  const instruction = wire.Instruction.getRootAsInstruction(new flatbuffers.ByteBuffer(bytes));
  const type = instruction.workType();
  const lines = [
    `step ${instruction.step()}`,
    `weight_version ${instruction.weightVersion()}`,
    `work ${wire.Work[type]}`,
  ];
  if (type === wire.Work.StepPlan) {
    const plan: wire.StepPlan = instruction.work(new wire.StepPlan());
    lines.push(
      ...PLAN_COLUMNS.map((name) => (name === 'open_params' ? paramsColumn(plan) : column(plan, name))),
    );
  } else {
    lines.push(...controlLines(instruction, type));
  }
  return `${lines.join('\n')}\n`;
}

function controlLines(instruction: wire.Instruction, type: wire.Work): string[] {
  const { Work } = wire;
  if (type === Work.FinishWeightUpdate) {
    const work: wire.FinishWeightUpdate = instruction.work(new wire.FinishWeightUpdate());
    return [`version ${work.version()}`, `succeeded ${Number(work.succeeded())}`];
  }
  if (type === Work.ReleaseMemory) {
    const work: wire.ReleaseMemory = instruction.work(new wire.ReleaseMemory());
    return [`tags ${work.tags()}`, `abort_running ${Number(work.abortRunning())}`];
  }
  if (type === Work.ResumeMemory) {
    const work: wire.ResumeMemory = instruction.work(new wire.ResumeMemory());
    return [`tags ${work.tags()}`];
  }
  if (type === Work.LoadAdapter) {
    const work: wire.LoadAdapter = instruction.work(new wire.LoadAdapter());
    return [`adapter ${work.adapter()}`, `name ${work.name()}`, `path ${work.path()}`];
  }
  if (type === Work.UnloadAdapter) {
    const work: wire.UnloadAdapter = instruction.work(new wire.UnloadAdapter());
    return [`adapter ${work.adapter()}`];
  }
  if (type === Work.SetParallelGroups) {
    const work: wire.SetParallelGroups = instruction.work(new wire.SetParallelGroups());
    return [
      `tensor_parallel_size ${work.tensorParallelSize()}`,
      `pipeline_parallel_size ${work.pipelineParallelSize()}`,
      `data_parallel_size ${work.dataParallelSize()}`,
      `rank ${work.rank()}`,
    ];
  }
  return [];
}
