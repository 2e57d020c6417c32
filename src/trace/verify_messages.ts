// Verifies the Instructions and Results that a trace holds, where they are read without a core that has taken them: they may come from
// anywhere. Structure as in verify.ts; of plans also what their reader relies on: groups of equal length, ends that ascend, rows that exist.

import { Work } from '../generated/index.js';
import { Damage, Message, require, type Table } from './verify.js';

const SAMPLING_PARAMS_BYTES = 56;
/** Columns of a StepPlan, by field number (schemas/instruction.fbs). */
const OPEN = [0, 1, 2, 3] as const;
const OPEN_PARAMS = 4;
/** Running ends, and the flat columns that they cut. */
const OPEN_PARTS = [
  [5, [6]],
  [7, [8]],
  [9, [10, 11]],
] as const;
const [SEQUENCE_NUM_TOKENS, TOKEN_IDS, SAMPLE_ROW, SCORE_ROW] = [19, 20, 21, 23];
const GROUPS = [
  [12, 13, 14],
  [15, 16],
  [17, 18, SEQUENCE_NUM_TOKENS],
  [SAMPLE_ROW, 22],
  [SCORE_ROW, 24, 25],
] as const;

/** Columns of a Result (schemas/result.fbs): all others are of 4 bytes. */
const ROW_CODE = 4;
const RESULT_WORDS = [3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];

/** The fields of the other kinds of work, as [field, bytes]. */
const CONTROL_SCALARS: Readonly<Record<number, readonly (readonly [number, number])[]>> = {
  [Work.BeginWeightUpdate]: [],
  [Work.FinishWeightUpdate]: [
    [0, 8],
    [1, 1],
  ],
  [Work.ReleaseMemory]: [
    [0, 1],
    [1, 1],
  ],
  [Work.ResumeMemory]: [[0, 1]],
  [Work.LoadAdapter]: [[0, 4]],
  [Work.UnloadAdapter]: [[0, 4]],
  [Work.SetParallelGroups]: [
    [0, 4],
    [1, 4],
    [2, 4],
    [3, 4],
  ],
  [Work.Shutdown]: [],
};

/** What is wrong with these bytes as an Instruction; null when nothing is. */
export function damageOfInstruction(bytes: Uint8Array): string | null {
  return damageOf(() => verifyInstruction(bytes));
}

/** What is wrong with these bytes as a Result; null when nothing is. */
export function damageOfResult(bytes: Uint8Array): string | null {
  return damageOf(() => {
    const result = new Message(bytes).root();
    result.scalars([
      [0, 8],
      [1, 2],
    ]);
    result.string(2);
    result.vector(ROW_CODE, 2, 2);
    for (const field of RESULT_WORDS) result.vector(field, 4, 4);
  });
}

function damageOf(verify: () => void): string | null {
  try {
    verify();
    return null;
  } catch (error) {
    if (error instanceof Damage) return error.message;
    throw error;
  }
}

function verifyInstruction(bytes: Uint8Array): void {
  const instruction = new Message(bytes).root();
  instruction.scalars([
    [0, 8],
    [1, 8],
  ]);
  const type = instruction.u8(2);
  const work = instruction.table(3);
  if (type === Work.StepPlan) {
    verifyPlan(work);
    return;
  }
  const scalars = CONTROL_SCALARS[type];
  if (scalars === undefined)
    throw new Damage(`its work is of kind ${type}, which this version does not know`);
  work.scalars(scalars);
  if (type === Work.LoadAdapter) for (const field of [1, 2]) work.string(field);
}

function verifyPlan(plan: Table): void {
  const { message } = plan;
  const words = (field: number) => plan.vector(field, 4, 4) ?? { at: 0, count: 0 };
  const numOpens = sameCount(OPEN.map((field) => words(field).count));
  require((plan.vector(OPEN_PARAMS, SAMPLING_PARAMS_BYTES, 8)?.count ?? 0) === numOpens, COUNTS_DIFFER);
  for (const [ends, columns] of OPEN_PARTS) {
    const { at, count } = words(ends);
    require(count === numOpens, COUNTS_DIFFER);
    const total = sameCount(columns.map((field) => words(field).count));
    let previous = 0;
    for (let i = 0; i < count; i += 1) {
      const end = message.u32(at + 4 * i);
      require(end >= previous && end <= total, 'running ends do not ascend');
      previous = end;
    }
  }
  for (const group of GROUPS) sameCount(group.map((field) => words(field).count));
  const numTokens = words(SEQUENCE_NUM_TOKENS);
  const numRows = words(TOKEN_IDS).count;
  let rows = 0;
  for (let i = 0; i < numTokens.count; i += 1) rows += message.u32(numTokens.at + 4 * i);
  require(rows === numRows, COUNTS_DIFFER);
  for (const field of [SAMPLE_ROW, SCORE_ROW]) {
    const { at, count } = words(field);
    for (let i = 0; i < count; i += 1) require(message.u32(at + 4 * i) < numRows, 'a row does not exist');
  }
}

const COUNTS_DIFFER = 'columns differ in length';

function sameCount(counts: readonly number[]): number {
  require(counts.every((count) => count === counts[0]), COUNTS_DIFFER);
  return counts[0]!;
}
