// A StepPlan's columns where they lie in the core's memory: views, valid until the step's result has been committed.

import type { Instruction } from '../generated/index.js';
import { StepPlan } from '../generated/index.js';

const NO_WORDS = new Uint32Array(0);
const NO_TOKENS = new Int32Array(0);

export interface PlanView {
  plan: StepPlan;
  openSlot: Uint32Array;
  openSample: Uint32Array;
  openPromptTokens: Uint32Array;
  openAdapter: Uint32Array;
  openHistoryEnd: Uint32Array;
  historyTokenIds: Int32Array;
  tableSlot: Uint32Array;
  tableIndex: Uint32Array;
  tableBlock: Uint32Array;
  copySource: Uint32Array;
  copyTarget: Uint32Array;
  sequenceSlot: Uint32Array;
  sequenceStart: Uint32Array;
  sequenceNumTokens: Uint32Array;
  tokenIds: Int32Array;
  sampleRow: Uint32Array;
  sampleSlot: Uint32Array;
  scoreRow: Uint32Array;
  scoreSlot: Uint32Array;
  scoreToken: Int32Array;
}

export function viewPlan(instruction: Instruction): PlanView {
  const plan = instruction.work(new StepPlan()) as StepPlan;
  return {
    plan,
    openSlot: plan.openSlotArray() ?? NO_WORDS,
    openSample: plan.openSampleArray() ?? NO_WORDS,
    openPromptTokens: plan.openPromptTokensArray() ?? NO_WORDS,
    openAdapter: plan.openAdapterArray() ?? NO_WORDS,
    openHistoryEnd: plan.openHistoryEndArray() ?? NO_WORDS,
    historyTokenIds: plan.historyTokenIdsArray() ?? NO_TOKENS,
    tableSlot: plan.tableSlotArray() ?? NO_WORDS,
    tableIndex: plan.tableIndexArray() ?? NO_WORDS,
    tableBlock: plan.tableBlockArray() ?? NO_WORDS,
    copySource: plan.copySourceArray() ?? NO_WORDS,
    copyTarget: plan.copyTargetArray() ?? NO_WORDS,
    sequenceSlot: plan.sequenceSlotArray() ?? NO_WORDS,
    sequenceStart: plan.sequenceStartArray() ?? NO_WORDS,
    sequenceNumTokens: plan.sequenceNumTokensArray() ?? NO_WORDS,
    tokenIds: plan.tokenIdsArray() ?? NO_TOKENS,
    sampleRow: plan.sampleRowArray() ?? NO_WORDS,
    sampleSlot: plan.sampleSlotArray() ?? NO_WORDS,
    scoreRow: plan.scoreRowArray() ?? NO_WORDS,
    scoreSlot: plan.scoreSlotArray() ?? NO_WORDS,
    scoreToken: plan.scoreTokenArray() ?? NO_TOKENS,
  };
}
