// An instruction that is in flight, as host and checkers see it.

import type { Instruction, Work } from '../generated/index.js';
import type { SequenceView } from './sequence_view.js';
import type { PlanView } from './step_plan.js';

export interface StepInFlight {
  step: number;
  /** As the instruction says it. */
  weightVersion: number;
  instruction: Instruction;
  work: Work;
  /** null: a control instruction. */
  view: PlanView | null;
  /** Whose each entry of the plan is, at the time when it was planned. */
  sequences: readonly SequenceView[];
  samples: readonly SequenceView[];
  /** Whose slots the plan opens, by entry. */
  opened: readonly SequenceView[];
  doneAtUs: number;
}
